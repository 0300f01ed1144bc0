"""Sources of data, one kind a file: load(spec: DataSpec) -> Dataset.

SOURCES names them. A new source is a new file and a line there. They may import
experiments.data.dataset, .lazy_images and experiments.runs.
"""

from collections.abc import Callable
from typing import NamedTuple

from experiments.data.dataset import Dataset, DataSpec
from experiments.data.prepare import source as prepared
from experiments.data.sources import (
    cifar10,
    digits,
    emoji,
    field,
    files,
    huggingface,
    npz,
    points,
)
from experiments.data.sources.numbers import arrays, table
from experiments.data.sources.packaged import electrocardiogram, photographs


class Source(NamedTuple):
    """A kind of data.

    load: reads it. levels: grey levels of its images; None for floats. description and licence: for
    model cards. takes_path: it reads config.data.path. shape: of its samples; (): config.data has
    it. dtypes: the values of config.data.dtype that it takes, its default first; (): its values are
    its own.
    """

    load: Callable[[DataSpec], Dataset]
    levels: int | None = 256
    description: str = ""
    licence: str = ""
    takes_path: bool = True
    shape: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = ()


POINTS = Source(
    points.load, None, "points in the plane, drawn by this program", "none: numbers", False, (2,)
)
FIELD = Source(
    field.load, None, "Gaussian random fields, drawn by this program", "none: numbers", False
)
SOURCES: dict[str, Source] = {
    "digits": Source(
        digits.load,
        17,
        "scikit-learn's handwritten digits, the test set of UCI's Optical Recognition of "
        "Handwritten Digits (Alpaydin and Kaynak 1998)",
        "CC BY 4.0",
        False,
    ),
    "swiss_roll": POINTS,
    "moons": POINTS,
    "checkerboard": POINTS,
    "mixture": POINTS,
    **dict.fromkeys((*field.LENGTHS, field.BY_PARAMETERS), FIELD),
    "electrocardiogram": Source(
        electrocardiogram.load,
        None,
        "SciPy's electrocardiogram, five minutes of record 208 of the MIT-BIH Arrhythmia Database "
        "(Moody and Mark 2001, PhysioNet)",
        "ODC-By 1.0",
        False,
        dtypes=("float",),
    ),
    "sample_images": Source(
        photographs.load,
        256,
        "crops of scikit-learn's two photographs (danielbuechele and vultilion on Flickr)",
        "CC BY 2.0",
        False,
    ),
    "photographs": Source(
        photographs.load,
        256,
        "crops of scikit-learn's two photographs (danielbuechele and vultilion on Flickr) and of "
        "four that scikit-image includes",
        "CC BY 2.0; four are in the public domain",
        False,
    ),
    "cifar10": Source(
        cifar10.load,
        256,
        "CIFAR-10 (Krizhevsky 2009), photographs from the web",
        "not stated by its author",
    ),
    "emoji": Source(
        emoji.load, 256, "OpenMoji's pictures, rendered on white", "CC BY-SA 4.0", False
    ),
    "folder": Source(files.load),
    "npz": Source(npz.load),
    "arrays": Source(arrays.load, dtypes=tuple(arrays.TYPES)),
    "table": Source(table.load, None, dtypes=("float",)),
    **{
        name: Source(table.load_included, None, about, "CC BY 4.0", False, shape, dtypes=("float",))
        for name, (about, shape) in table.INCLUDED.items()
    },
    "prepared": Source(prepared.load),
    "huggingface": Source(huggingface.load),
}
