"""Mode edit: edits samples of the test set by a trained model. config.edit says how."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.build import components
from experiments.commands.request import Request
from experiments.data.lazy_arrays import complete
from experiments.pipeline import edit, show
from experiments.pipeline.pipeline import Pipeline


def run(request: Request) -> None:
    """Edits the first config.edit.n_images test images; draws them with the results beside them.

    With config.data.autoencoder their latents are edited, and everything is shown decoded.

    Raises:
        ValueError: an unknown task or mask, an impossible number, or data that cannot be edited.
        FloatingPointError: a result is not finite.
    """
    options, model = components.edit(request.config), request.model()
    edit.check(model, options)
    if options.task == "impute":
        impute(model, options, request.config.edit.n_images)
        return
    images: Any = model.dataset().test[: request.config.edit.n_images]
    x = model.scaling.to_model(jax.random.key(0), jnp.asarray(images), dequantize=False)
    columns = edit.edit(model, np.asarray(x), options)
    if options.task == "reconstruct":
        what = "of latents " if model.decoder else ""
        error = np.abs(columns["decoded"] - columns["original"]).max()
        print(f"largest error {what}{error:.2e}")
    print(show.save_edit(model, columns, options))


def impute(model: Pipeline, options: edit.Edit, n: int) -> None:
    """Fills in the first n incomplete test samples; saves them and their picture.

    Raises:
        ValueError: no test sample has a missing value.
    """
    test = model.dataset().test
    rows = np.setdiff1d(np.arange(len(test)), complete(test))[:n]
    if not len(rows):
        raise ValueError(
            f"none of the {len(test)} test samples has a missing value: config.edit.task='impute' "
            "has nothing to fill in; choose another task, or give data with NaN"
        )
    given = np.asarray(test[rows])
    imputed = edit.impute(model, given, options)
    for path in show.save_imputed(model, rows, given, imputed, options):
        print(path)
