"""Mode export: a run's weights for other programs, --format=safetensors|diffusers|score_sde|...

The averaged weights of the last step go to RUN/exported/FORMAT. A format takes networks that its
own program has too. "safetensors" is ours: it takes every network, and holds the config.
"""

import logging
import shutil
from typing import Any

from experiments.build import pipelines, related, restored
from experiments.commands.request import Request
from experiments.data import latents
from experiments.runs import folder as folders
from experiments.training import imported
from models import published
from models.published import FORMATS, Format, Skeleton
from models.published.base import About, extract
from sde_lib.checks import check_name

CARD = ("model", "source", "license", "figure", "commercial")
"""What a written file says of the published model that its weights are from."""
LOG = logging.getLogger(__name__)


def run(request: Request) -> None:
    """Writes the weights, and prints the path.

    Raises:
        ValueError: an unknown format, or a network that its program does not have.
    """
    config, folder = request.config, request.folder
    known = names()
    if request.format is None:
        raise ValueError(f"--mode=export needs --format: one of {', '.join(known)}")
    check_name("--format", request.format, known)
    if config.data.missing and request.format != "safetensors":
        raise ValueError(
            f"--format={request.format} has no masks of missing values, which this model was "
            "trained with: take --format=safetensors"
        )
    if config.latent.name:
        raise ValueError(
            f"--format={request.format} holds a score network alone, and this model has a map to "
            f"its latents too (config.latent.name={config.latent.name!r}): it stays in its run"
        )
    fields = folders.flatten(config.to_dict())
    bare = published.skeleton(config, related.shape(config))
    form, options = chosen(known[request.format], bare, fields)
    params, step = restored.weights(config, folder, None, pipelines.average_length(config))
    arrays = extract(params, form.table(bare)) | form.constants(bare)
    record = folder / latents.RECORD
    about = folders.read_record(record) if record.exists() else None
    scale = about and {name: about[name] for name in ("mean", "std")}
    card = {name: v for name, v in folders.origin(folder).items() if name in CARD} or None
    path = folder / "exported" / request.format
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    written = form.write(path, arrays, options, About(fields, step, scale, card))
    if (folder / imported.CARD).exists():
        shutil.copy(folder / imported.CARD, path)  # it has the license
    LOG.info("%s, step %d, as %s", folder, step, form.title)
    print(written)


def names() -> dict[str, list[Format]]:
    """The formats by what --format calls them; those of one program share a name."""
    found: dict[str, list[Format]] = {}
    for form in FORMATS.values():
        if type(form).options is not Format.options:
            found.setdefault(form.group or form.name, []).append(form)
    return found


def chosen(
    forms: list[Format], bare: Skeleton, fields: dict[str, Any]
) -> tuple[Format, dict[str, Any]]:
    """The first format that has the network, with the options of the network there.

    Raises:
        ValueError: none has it; says why for each.
    """
    reasons = []
    for form in forms:
        try:
            form.table(bare)
            return form, form.options(bare, fields)
        except ValueError as error:
            reasons.append(f"as {form.title}: {error}")
    raise ValueError(
        f"the network {type(bare.network).__name__} cannot be written in this format "
        f"({'; '.join(reasons)}): take --format=safetensors, which any network can have"
    )
