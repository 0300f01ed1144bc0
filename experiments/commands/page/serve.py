"""Mode serve: a page in the browser that draws and edits images by a trained model."""

import os

from experiments.commands.page.studio import Studio
from experiments.commands.request import Request
from experiments.data.sources.optional import require
from sde_lib.checks import check_at_least


def run(request: Request) -> None:
    """Serves the page at config.serve.host and config.serve.port, until Ctrl-C.

    Raises:
        ValueError: gradio is missing, an impossible port, or a model of other data than images.
        OSError: the port is taken.
    """
    options = request.config.serve
    check_at_least(1, 65535, **{"config.serve.port": options.port})
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nothing about the page leaves this machine
    require("gradio", "serve", "mode serve")
    from experiments.commands.page.layout import CSS, page  # imports gradio

    studio = Studio(request.config, request.folder)
    made = page(studio)
    print(f"http://{options.host}:{options.port} (Ctrl-C ends it)", flush=True)
    made.launch(server_name=options.host, server_port=options.port, quiet=True, css=CSS)
