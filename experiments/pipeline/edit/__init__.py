"""Edits of images by a trained model: inpainting, variations, colours, larger frames and others.

    columns = model.edit("photo.png", "inpaint", mask="mask.png", prompt="a red hat")

options.py has the options, tasks.py the tasks by name, and run.py applies one to samples in model
space. images.py edits images of any size: files.py reads them, views.py brings them to the model's
size and back, masks.py makes masks. A new task is a function and a line in TASKS (tasks.py).
"""

from experiments.pipeline.edit.images import edit, edit_images
from experiments.pipeline.edit.masks import MASKS
from experiments.pipeline.edit.options import Edit, create
from experiments.pipeline.edit.run import check, impute
from experiments.pipeline.edit.tasks import TASKS
from experiments.pipeline.edit.views import Fit

__all__ = [
    "MASKS",
    "TASKS",
    "Edit",
    "Fit",
    "check",
    "create",
    "edit",
    "edit_images",
    "impute",
]
