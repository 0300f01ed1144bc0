"""Our own format: a file of safetensors with the parameters by our names, and the config in it."""

import json
from pathlib import Path
from typing import Any

from models.published.base import (
    About,
    Arrays,
    Card,
    Fields,
    Format,
    Found,
    Latents,
    Skeleton,
    Source,
    Table,
    Tensor,
    hashable,
)
from models.weights import safetensors_files

PROGRAM = "score-sde-jax"


class Own(Format):
    """A file that --mode=export --format=safetensors wrote, of any network."""

    name = "safetensors"
    title = "a model of this program"

    def find(self, source: Source) -> Found | None:
        if source.options.get("format") != PROGRAM:
            return None
        about = json.loads(source.options["about"])
        fields = {name: hashable(value) for name, value in about["fields"].items()}
        latents = about["latents"] and Latents(*map(tuple, about["latents"].values()))
        card = Card((), **about["card"]) if about.get("card") else None
        return Found(source.content, fields, step=about["step"], latents=latents, card=card)

    def table(self, skeleton: Skeleton) -> Table:
        return {place: Tensor("/".join(place), rows=True) for place in skeleton.shapes}

    def options(self, skeleton: Skeleton, fields: Fields) -> dict[str, Any]:
        return {}

    def write(self, folder: Path, arrays: Arrays, options: dict[str, Any], about: About) -> Path:
        path = folder / "model.safetensors"
        shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        texts = {"format": PROGRAM, "about": json.dumps(about._asdict())}
        with path.open("wb") as file:
            safetensors_files.write(file, shapes, arrays.values(), texts)
        return path
