"""Mode prepare: a data set of whatever image files there are, with a report."""

from experiments.build.components import specs
from experiments.commands.request import Request
from experiments.data.prepare import make, report
from experiments.data.prepare.listing import list_images
from experiments.runs import files, hosts, progress


def run(request: Request) -> None:
    """Makes the data set, and prints the report; its last line is the command to train on it.

    Raises:
        ValueError: no --data, an output that exists, or images that do not fit.
    """
    if not hosts.is_first():  # one process makes it, with processes of its own
        return
    options, data = request.config.prepare, files.expand(request.data or "")
    if not request.data:
        raise ValueError("give --data=FOLDER of images, a .zip of them, or a table that names them")
    transform = specs.transform(request.config)
    output = request.folder
    make.check_output(data, output)
    with progress.working(f"listing {data}"):
        listing = list_images(data, options.table, options.label_column, options.caption_column)
    processes = options.processes or None
    made = make.make(listing, output, transform, request.config.data.test_fraction, processes)
    about = report.facts(made, listing.notes)
    captioned = any(item.caption for item in listing.items)
    for line in report.lines(about, captioned):
        print(line)
    print(report.write(output, about))
    print(report.next_command(output, made.shape, len(made.classes)))
