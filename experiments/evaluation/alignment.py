"""The agreement of images with captions by embeddings of both, as CLIP gives them.

The score is 100 max(cos, 0) of an image's and its caption's embedding, averaged (CLIPScore, Hessel
et al. 2021, arXiv 2104.08718, without its factor of 2.5). No network of such embeddings is part of
this program: a user gives a file of them.
"""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Float

from experiments.evaluation.figure import Figure, Figures
from experiments.runs.files import open_arrays

FIELD = "config.eval.embeddings"
EXPECTED = (
    "an .npz file of 'captions' [M, D], embeddings of the captions that samples are drawn for in "
    "turn, and, unless D is the number of the features of config.eval.features, 'images' [N, D], "
    "embeddings of the samples 0, ..., N - 1"
)
Rows = Float[np.ndarray, "n dims"]


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Embeddings of captions, and of samples if those are not the features of the images.

    Attributes:
        captions: [M, D]; sample i has the caption i mod M.
        images: [N, D]; None: the features of the images take their place.
    """

    captions: Rows
    images: Rows | None = None

    @classmethod
    def read(cls, path: Path) -> "Embeddings":
        """The embeddings in a file.

        Raises:
            ValueError: no such file, or other arrays.
        """
        if not path.is_file():
            raise ValueError(f"{FIELD} is {str(path)!r}: give {EXPECTED}")
        with open_arrays(path, EXPECTED) as file:
            found = {
                name: np.asarray(file[name]) for name in ("captions", "images") if name in file
            }
        wrong = [n for n, rows in found.items() if rows.ndim != 2 or rows.dtype.kind != "f"]
        sizes = {rows.shape[-1] for rows in found.values()}
        if "captions" not in found or wrong or len(sizes) != 1:
            about = ", ".join(f"{name} {rows.dtype} {rows.shape}" for name, rows in found.items())
            raise ValueError(f"{FIELD}, {path}, has {about or 'neither'}: give {EXPECTED}")
        for name, rows in found.items():
            if not (np.isfinite(rows).all() and np.any(rows, axis=1).all()):
                raise ValueError(f"{FIELD}, {path}: {name!r} has a row of zeros, or not finite")
        return cls(**{name: rows.astype(np.float64) for name, rows in found.items()})

    def of_samples(self, features: Rows) -> Rows:
        """The embeddings of the first len(features) samples.

        Raises:
            ValueError: too few, or features of another size than the captions.
        """
        n = len(features)
        rows = features if self.images is None else self.images[:n]
        if len(rows) < n or rows.shape[1] != self.captions.shape[1]:
            raise ValueError(
                f"{FIELD} has captions of {self.captions.shape[1]} numbers, and there are "
                f"{len(rows)} images of {rows.shape[1]} for {n} samples: give {EXPECTED}"
            )
        return np.asarray(rows, np.float64)


def figures(embeddings: Embeddings, features: Rows) -> Figures:
    """The score, that of other captions, and the share of images nearest to their own caption.

    A score says little alone, as the embeddings of all images and captions have much in common:
    that of other captions is the score by chance. The share counts equal captions as one.
    """
    captions, place = np.unique(embeddings.captions, axis=0, return_inverse=True)
    images = embeddings.of_samples(features)
    own = place.reshape(-1)[np.arange(len(images)) % len(embeddings.captions)]
    cosines = _unit(images) @ _unit(captions).T
    matched = cosines[np.arange(len(images)), own]
    found = {"alignment": _score(matched)}
    if len(captions) > 1:
        others = (cosines.clip(min=0).sum(axis=1) - matched.clip(min=0)) / (len(captions) - 1)
        right = cosines.argmax(axis=1) == own
        share = right.mean()
        found["alignment with other captions"] = _score(others)
        error = np.sqrt(share * (1 - share) / len(right))
        found["retrieval"] = Figure(share, error, {"captions": len(captions)})
    return found


def _score(cosines: Float[np.ndarray, " n"]) -> Figure:
    values = 100 * cosines.clip(min=0)
    return Figure(
        values.mean(), values.std(ddof=1) / np.sqrt(len(values)), {"samples": len(values)}
    )


def _unit(rows: Rows) -> Rows:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
