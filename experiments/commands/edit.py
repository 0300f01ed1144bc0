"""Mode edit: edits images of the user, or of the test set, by a trained model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.build.components import sampling
from experiments.commands.request import Request
from experiments.data.lazy_arrays import complete
from experiments.pipeline import edit, show
from experiments.pipeline.edit import files, images
from experiments.pipeline.pipeline import Pipeline


def run(request: Request) -> None:
    """Edits images as config.edit says; saves each result, and a picture of all.

    They are those of config.edit.images, or the first of the test set. With
    config.data.autoencoder their latents are edited, and everything is shown decoded.

    Raises:
        ValueError: an unknown task or mask, an impossible number, or data that cannot be edited.
        FloatingPointError: a result is not finite.
    """
    config = request.config
    options, fit, model = sampling.edit(config), sampling.fit(config), request.model()
    edit.check(model, options)
    if options.task == "impute":
        impute(model, options, config.edit.n_images)
        return
    if config.edit.images:
        images.check_model(model)
        paths, channels = files.split(config.edit.images), model.image_shape[-1]
        given = files.read_images(paths, channels, fit.background)
        names = [each.name for each in given]
        columns: Any = images.edit_images(model, [each.pixels for each in given], options, fit=fit)
    else:
        names, columns = edit_test_images(model, options, config.edit.n_images)
    print(show.save_edit(model, columns, options, names))


def edit_test_images(
    model: Pipeline, options: edit.Edit, n: int
) -> tuple[list[str], dict[str, Any]]:
    """The names and the columns of an edit of the first n test images, as 0 to 255."""
    test: Any = model.dataset().test[:n]
    rows = np.arange(len(test))
    x = model.scaling.to_model(jax.random.key(0), jnp.asarray(test), dequantize=False)
    whole: Any = model.to_images(x) if options.only_masked else np.asarray(x)
    columns = edit.edit(model, whole, options, rows=rows)
    if options.task == "reconstruct":
        what = "of latents " if model.decoder else ""
        error = np.abs(columns["decoded"] - columns["original"]).max()
        print(f"largest error {what}{error:.2e}")
    if not options.only_masked:
        columns = {title: model.to_images(column) for title, column in columns.items()}
    return [f"test{row}" for row in rows], columns


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
    imputed = edit.impute(model, given, options, rows)
    for path in show.save_imputed(model, rows, given, imputed, options):
        print(path)
