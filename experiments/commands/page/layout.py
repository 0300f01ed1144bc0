"""The page: its fields and its buttons. What these do is in studio.py."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]
import numpy as np
from PIL import Image

import samplers
from experiments.commands.page.studio import TASKS_OF_ONE, Fields, Studio, fields_of
from experiments.pipeline.edit.tasks import TASKS
from samplers import posterior

CSS = "img, canvas {image-rendering: pixelated}"
OWN = "as the run says"
Inputs = dict[str, Any]
"""The components of a page by the config field that each of them sets."""


def page(studio: Studio) -> gr.Blocks:
    """The page of a trained model."""
    folder = studio.model.folder
    with gr.Blocks(title=str(folder), analytics_enabled=False) as made:
        gr.Markdown(f"## {folder}, step {studio.model.step:,}")
        with gr.Row():
            with gr.Column():
                inputs = _sampling_inputs(studio)
                load = gr.UploadButton("Load the settings of a picture", file_types=[".png"])
            with gr.Column(), gr.Tabs():
                with gr.Tab("Sample"):
                    _buttons(inputs, {"Draw": studio.draw, "Way from noise": studio.way}, studio)
                with gr.Tab("Edit"):
                    image = gr.ImageEditor(
                        label="image; paint what is made anew", type="filepath", format="png"
                    )
                    edits = _edit_inputs()
                    both = inputs | edits
                    without_number = {n: c for n, c in both.items() if n != "sampling.n_samples"}
                    _buttons(without_number, {"Edit": studio.edit}, studio, image)
        load.upload(lambda path: _loaded(both, path), load, list(both.values()))
    return made


def _sampling_inputs(studio: Studio) -> Inputs:
    """The fields of samples; those of conditions, if the model has some."""
    conditions = studio.model.conditions
    names: Any = {type(member).__name__: member for member in conditions.members}
    inputs = {
        "seed": gr.Number(studio.model.seed, label="seed", precision=0),
        "sampling.n_samples": gr.Slider(1, 64, 4, step=1, label="number of samples"),
        "sampling.method": gr.Dropdown([OWN, *samplers.SAMPLERS], value=OWN, label="sampler"),
        "sampling.n_steps": gr.Number(0, label="steps (0: the sampler's own)", precision=0),
    }
    if "ClassLabel" in names:
        classes = [(OWN, None), *((str(k), k) for k in range(names["ClassLabel"].n_classes))]
        inputs["sampling.label"] = gr.Dropdown(classes, value=None, label="class")
    if "Text" in names:
        inputs["sampling.prompt"] = gr.Textbox("", label="prompt")
    if conditions.has_unconditional and conditions.droppable:
        free = "guidance.classifier_free"
        scale = studio.model.classifier_free.weight
        inputs[f"{free}.weight"] = gr.Slider(0, 10, scale, step=0.1, label="guidance scale")
        if "Text" in names:
            inputs[f"{free}.negative_prompt"] = gr.Textbox("", label="negative prompt")
    return inputs


def _edit_inputs() -> Inputs:
    return {
        "edit.task": gr.Dropdown(TASKS_OF_ONE, value="variations", label="edit"),
        "edit.n_results": gr.Slider(1, 16, 4, step=1, label="number of results"),
        "edit.posterior": gr.Dropdown([OWN, *posterior.METHODS], value=OWN, label="method"),
        "edit.noise_std": gr.Number(0, label="noise of what is given (standard deviation)"),
        "edit.strength": gr.Slider(0, 1, 0.5, label="strength: 0 changes nothing"),
        "edit.mask_blur": gr.Number(0, label="blur of the mask's edge, in pixels"),
        "edit.only_masked": gr.Checkbox(False, label="edit the part around the mask alone"),
    }


def _buttons(
    inputs: Inputs, actions: dict[str, Callable], studio: Studio, image: Any = None
) -> None:
    """Buttons for actions, one to cancel them, the results, and the command that makes the same."""
    with gr.Row():
        buttons = {name: gr.Button(name, variant="primary") for name in actions}
        cancel = gr.Button("Cancel")
    said = gr.Markdown()
    gallery = gr.Gallery(label="results", object_fit="contain", format="png", columns=4)
    command = gr.Code(label="the command that makes the same", language="shell", wrap_lines=True)
    components = [*inputs.values(), *([image] if image else [])]
    started = [
        buttons[name].click(
            _shown(inputs, action, studio, image is not None),
            components,
            [gallery, said, command],
            concurrency_id="model",
            concurrency_limit=1,
        )
        for name, action in actions.items()
    ]
    cancel.click(lambda: "cancelled", None, said, cancels=started)


def _shown(inputs: Inputs, action: Callable, studio: Studio, edits: bool) -> Callable:
    """An action as the page calls it: with the values of its inputs, it yields its outputs."""

    def shown(*values: Any) -> Iterator[tuple]:
        try:
            fields = _fields(dict(zip(inputs, values, strict=False)))
            if edits:
                fields |= _image(studio, fields, values[-1])
            command = studio.command("edit" if edits else "sample", fields)
            if action == studio.way:
                command += "  # the first row of its picture of paths"
            yield [], "at work: the first time, the program is compiled", command
            made = action(fields)
            for files in made if isinstance(made, Iterator) else [made]:
                yield files, f"{len(files)} done", command
        except (ValueError, FloatingPointError) as error:
            raise gr.Error(str(error), duration=None) from error

    return shown


def _fields(values: Fields) -> Fields:
    """The config fields that were set, and that the task takes; others are as the run says."""
    options = TASKS[values["edit.task"]].options if "edit.task" in values else ()
    own = {"edit.task", *(f"edit.{name}" for name in options)}
    values = values | {"sampling.n_steps": values["sampling.n_steps"] or None}
    return {
        name: value
        for name, value in values.items()
        if value not in (None, "", OWN) and (name in own or not name.startswith("edit."))
    }


def _image(studio: Studio, fields: Fields, image: Any) -> Fields:
    """The fields of an image in the editor, and of what was painted, if the task takes a mask."""
    if image is None or image["background"] is None:
        raise ValueError("there is no image: put one into the frame above")
    source = Path(image["background"])
    found = {"edit.images": str(studio.kept_file(source.read_bytes(), source.suffix))}
    layers = [Image.open(layer).convert("RGBA").getchannel("A") for layer in image["layers"]]
    painted = np.any([np.asarray(layer) > 0 for layer in layers], axis=0)
    if "mask" in TASKS[fields["edit.task"]].options:
        if not painted.any():
            raise ValueError("nothing is painted: paint over the part to replace")
        found["edit.mask"] = str(studio.mask_file(painted))
    return found


def _loaded(inputs: Inputs, path: Path) -> list[Any]:
    """The values of the inputs that made a picture."""
    try:
        fields = fields_of(Path(path))
    except ValueError as error:
        raise gr.Error(str(error), duration=None) from error
    return [fields.get(name, component.value) for name, component in inputs.items()]
