import io
import logging
import shutil
import signal
import struct
from contextlib import closing, redirect_stdout

import flax.linen as nn
import jax
import numpy as np
import pytest
import saved_runs
from flax.traverse_util import flatten_dict
from PIL import Image
from tensorboardX.proto.event_pb2 import Event
from tiny_configs import digits_config
from toys import Toy

import models
from configs import digits, points
from experiments.build import data, restored, tasks
from experiments.build.components import optimization
from experiments.build.fields import configs
from experiments.commands import train
from experiments.commands.request import Request
from experiments.data import batches
from experiments.data.dataset import Dataset
from experiments.runs import charts, files
from experiments.training.checkpoints import Checkpoints
from experiments.training.state import abstract_state


@pytest.fixture(autouse=True, scope="module")
def small():
    """A task named "toy", few points, and no figure of the loss, which takes a second to draw."""
    x = np.random.RandomState(0).randn(256, 2).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tasks.TASKS, "toy", lambda config, mesh: Toy(dropout=0.1))
        patch.setattr(data, "images", lambda config: Dataset(x, x[:64], None))
        patch.setattr(charts, "save_loss_curve", lambda path, *_: path)
        yield


def toy(**training):
    config = points.get_config("mixture")
    config.model.name, config.optim.warmup = "toy", 0
    config.training.update(n_iters=8, batch_size=8, log_freq=4, eval_freq=4, at_end=("distance",))
    config.training.update(snapshot_freq=4, snapshot_freq_for_preemption=4, sinks=("jsonl",))
    config.training.update(training)
    return config


def run(config, folder):
    """Trains; returns what the command prints."""
    with redirect_stdout(io.StringIO()) as printed:
        train.run(Request(config, folder))
    return printed.getvalue()


def metrics(folder):
    return files.read_lines(folder / "metrics.jsonl")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a toy that was trained with every sink, and what the command printed."""
    folder = tmp_path_factory.mktemp("toy")
    return folder, run(toy(sinks=("jsonl", "tensorboard"), quality_freq=8), folder)


@pytest.mark.thorough
def test_a_new_task_trains_with_held_out_metrics_a_report_and_a_card(trained):
    folder, printed = trained
    lines = metrics(folder)
    assert [line["step"] for line in lines if "loss" in line] == [4, 8]
    held_out = [line["eval_loss"] for line in lines if "eval_loss" in line]
    assert len(held_out) == 2
    assert held_out[1] < held_out[0]
    name, distance = printed.splitlines()[0].split()
    assert name == "distance"
    card = (folder / "checkpoints" / "8" / "model_card.md").read_text()
    assert card.startswith("# Toy of `mixture`, step 8")
    assert "It knows a mean." in card
    assert "64 samples seen" not in card
    assert "Steps: 8 of 8 samples" in card
    assert card.endswith(f"| distance | {distance} | 8 |\n")


@pytest.mark.thorough
def test_sample_quality_is_a_line_of_the_metrics(trained):
    assert [line["quality_gap"] for line in metrics(trained[0]) if "quality_gap" in line] == [1.0]


def test_a_task_without_sample_quality_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Toy, "reports", {})
    with pytest.raises(ValueError, match="quality_freq is 8, but a toy has no samples"):
        run(toy(quality_freq=8, at_end=()), tmp_path)


def test_sample_quality_that_cannot_be_measured_is_refused_before_training(tmp_path):
    config = toy(at_end=("quality",))
    config.eval.num_samples = 19
    with pytest.raises(ValueError, match=r"eval.num_samples is 19: it must be at least 20"):
        run(config, tmp_path)
    images = digits.get_config()
    images.training.quality_freq, images.eval.features = 8, "nowhere.npz"
    with pytest.raises(ValueError, match=r"there is no file 'nowhere.npz'"):
        train.check_reports(images, Toy())


@pytest.mark.parametrize("options", [{"at_end": ("quality",)}, {"quality_freq": 8, "at_end": ()}])
def test_data_too_few_for_an_evaluation_are_refused_before_training(tmp_path, monkeypatch, options):
    few = np.zeros((3, 2), np.float32)
    monkeypatch.setattr(data, "images", lambda config: Dataset(few, few, None))
    with pytest.raises(ValueError, match="there are 3 training samples, and sample quality"):
        run(toy(batch_size=2, **options), tmp_path)
    with pytest.raises(ValueError, match=r"3 training samples: config\.training\.batch_size"):
        run(toy(batch_size=4), tmp_path)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.thorough
def test_a_report_that_fails_ends_neither_the_training_nor_others(tmp_path, monkeypatch, caplog):
    """The same command makes it again, and then it is an error."""

    def fail(*_):
        raise RuntimeError("five channels")

    config = toy(at_end=("distance", "quality"))
    with monkeypatch.context() as patch:
        patch.setattr(Toy, "distance", fail)
        patch.setattr(Toy, "pictures", fail)
        assert run(config, tmp_path) == f"{tmp_path}/samples/loss.png\n"
        assert "step 4: no save_pictures: five channels" in caplog.text
        assert "no report 'distance'; the same command tries again: five channels" in caplog.text
        assert next(iter(files.read_json(tmp_path / train.DONE))).startswith("8 quality")
        with pytest.raises(RuntimeError, match="five channels"):
            run(config, tmp_path)
    assert run(config, tmp_path).startswith("distance ")


def test_an_unknown_report_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="at_end 'distanc' is unknown: did you mean 'distance'"):
        run(toy(at_end=("distanc",)), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def events(folder):
    """The values of TensorBoard's events, (step, name, value), in order."""
    found = []
    for path in sorted(folder.glob("events.out.*")):
        stream = io.BytesIO(path.read_bytes())
        while header := stream.read(12):  # a length and its checksum
            event = Event.FromString(stream.read(struct.unpack("<Q", header[:8])[0]))
            stream.read(4)  # the checksum
            found += [(event.step, value.tag, value) for value in event.summary.value]
    return found


def test_tensorboard_has_groups_of_names_the_learning_rate_and_pictures(trained):
    folder, _ = trained
    found = events(folder)
    names = {name for _, name, _ in found}
    assert {name.split("/")[0] for name in names} == {
        *("train", "held_out", "quality", "timing", "pictures")
    }
    assert names >= {"train/loss", "held_out/loss", "quality/gap", "timing/seconds"}
    losses = {step: value.simple_value for step, name, value in found if name == "train/loss"}
    assert losses == pytest.approx(
        {line["step"]: line["loss"] for line in metrics(folder) if "loss" in line}
    )
    rates = [value.simple_value for _, name, value in found if name == "timing/learning_rate"]
    assert rates == pytest.approx(2 * [points.get_config().optim.lr])
    ((step, name, value),) = [each for each in found if each[1].startswith("pictures/")]
    assert (step, name) == (4, "pictures/toy")
    shown = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
    saved = Image.open(folder / "samples" / "toy_4.png").convert("RGB")
    np.testing.assert_array_equal(shown, np.asarray(saved))


def test_reports_that_were_made_are_printed_again_and_not_made_again(trained, monkeypatch):
    folder, printed = trained
    monkeypatch.setattr(Toy, "distance", None)
    assert run(toy(sinks=("jsonl",), quality_freq=8), folder) == printed


@pytest.mark.thorough
def test_a_stopped_run_saves_without_a_report_and_continues(tmp_path, monkeypatch, caplog):
    """SIGTERM in step 3, where an evaluation is due."""
    config = toy(eval_freq=3, snapshot_freq_for_preemption=100)
    whole, original = run(config, tmp_path / "whole"), batches.batches

    def interrupted(*arguments):
        for k, batch in enumerate(original(*arguments)):
            if k == 2:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr(batches, "batches", interrupted)
        assert run(config, tmp_path / "parts") == ""
    assert "stopped and saved at step 3: run the same command to go on" in caplog.text
    assert metrics(tmp_path / "parts") == []
    again = run(config, tmp_path / "parts")
    assert again == whole.replace("whole", "parts")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def mlp(n_iters, **training):
    config = points.get_config("mixture")
    config.model.nf, config.model.num_res_blocks = 8, 1
    config.optim.warmup, config.optim.lr = 2, 0.02
    config.training.update(n_iters=n_iters, batch_size=64, log_freq=4, at_end=(), sinks=("jsonl",))
    config.training.update(snapshot_freq_for_preemption=4, eval_freq=100, snapshot_freq=100)
    config.training.update(training)
    return config


def state_of(config, folder):
    like = abstract_state(restored.skeleton(config), config.seed, optimization.mesh(config))
    with closing(Checkpoints(folder, read_only=True)) as checkpoints:
        return checkpoints.restore(like)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a score model that was trained for 9 steps."""
    folder = tmp_path_factory.mktemp("whole")
    run(mlp(9), folder)
    return folder


@pytest.mark.thorough
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(whole, tmp_path):
    """It has a line more, at the end of its first part."""
    run(mlp(5), tmp_path)
    run(mlp(9), tmp_path)
    one, other = (state_of(mlp(9), folder) for folder in (whole, tmp_path))
    assert int(one.step) == 9
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert [line["step"] for line in metrics(tmp_path)] == [4, 5, 8, 9]
    assert [metrics(tmp_path)[k] for k in (0, 3)] == [metrics(whole)[k] for k in (0, 2)]


@pytest.mark.thorough
def test_steps_in_one_program_are_the_steps(whole, tmp_path, monkeypatch):
    """A run that begins with programs of 1 step, goes on with those of 2 and ends between two."""
    sizes, original = [], train.compiled

    def counted(program, abstract):
        program = original(program, abstract)
        return lambda *inputs: (sizes.append(len(inputs) - 2), program(*inputs))[1]

    monkeypatch.setattr(train, "compiled", counted)
    config = mlp(1)
    config.data.resident_bytes = 0
    run(config, tmp_path)
    run(mlp(9, steps_per_jit=2), tmp_path)
    assert sizes == [1, 1, 2, 2, 2, 1]
    assert [line["step"] for line in metrics(whole)] == [4, 8, 9]
    for line, other in zip(metrics(tmp_path)[-2:], metrics(whole)[-2:], strict=True):
        assert line == pytest.approx(other, rel=1e-5)
    one, other = (state_of(mlp(9), folder).params for folder in (whole, tmp_path))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), one, other)


@pytest.mark.thorough
def test_the_loss_goes_down(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    run(mlp(60), tmp_path)
    losses = [line["loss"] for line in metrics(tmp_path)]
    assert np.mean(losses[-4:]) < 0.8 * losses[0]


@pytest.mark.thorough
def test_a_run_that_diverged_goes_on_with_a_lower_learning_rate(tmp_path, monkeypatch):
    """As the message advises. The change is recorded with its step."""
    config = mlp(9, max_skipped=3)
    original = data.images(config)
    poisoned = Dataset(np.full_like(original.train, np.nan), original.test, None)
    with monkeypatch.context() as patch:
        patch.setattr(data, "images", lambda config: poisoned)
        with pytest.raises(FloatingPointError, match=r"Lower config.optim.lr.* run the same"):
            run(config, tmp_path)
    step = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    for lr in (0.002, 0.001):
        config.optim.lr, config.optim.grad_clip = lr, 0.5
        run(config, tmp_path)
    timing = files.read_lines(tmp_path / "timing.jsonl")
    assert timing[-1]["learning_rate"] == pytest.approx(2e-3)
    lines = files.read_lines(tmp_path / "changes.jsonl")
    assert lines[0] == {"step": step, "field": "optim.lr", "before": 0.02, "after": 0.002}
    assert [(line["step"], line["field"]) for line in lines[1:]] == [
        (step, "optim.grad_clip"),
        (9, "optim.lr"),
    ]
    state = state_of(config, tmp_path)
    assert int(state.step) == 9
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


class Linear(nn.Module):
    """A network of one weight that sees classes."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, x, labels, train=False, class_labels=None):
        weight = self.param("weight", nn.initializers.ones, ())
        if class_labels is not None:
            jax.debug.callback(lambda classes: SEEN.append(np.asarray(classes)), class_labels)
        return weight * x


SEEN = []  # the classes, by calls of Linear


@pytest.mark.thorough
def test_a_class_conditional_model_trains_on_labelled_data_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "linear", Linear)
    images = np.random.RandomState(0).randint(17, size=(32, 8, 8, 1)).astype(np.uint8)
    labels = np.arange(32, dtype=np.int32) % 10
    monkeypatch.setattr(data, "images", lambda config: Dataset(images, images, 17, labels, labels))
    config = digits.get_config()
    config.model.name, config.model.class_conditional = "linear", True
    config.training.update(n_iters=3, batch_size=8, log_freq=1, at_end=(), eval_freq=3)
    config.eval.batch_size = 8
    run(config, tmp_path)
    jax.effects_barrier()
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 3]
    assert len(SEEN) >= 4
    assert all(classes.min() >= 0 and classes.max() < 10 for classes in SEEN)
    config.data.num_classes = 9
    with pytest.raises(ValueError, match="have 10 classes, but the model has only 9"):
        run(config, tmp_path / "fewer")


@pytest.mark.thorough
def test_fine_tuning_at_a_learning_rate_of_0_leaves_the_weights_of_the_run(whole, tmp_path):
    """The first step of a warm-up. The step and the optimizer are new, and the card says so."""
    config = mlp(1)
    config.training.init_from, config.optim.warmup = str(whole), 5
    run(config, tmp_path)
    old, new = state_of(mlp(9), whole), state_of(config, tmp_path)
    for params in (new.params, new.ema_params):
        jax.tree.map(np.testing.assert_array_equal, params, old.ema_params)
    assert int(new.step) == 1
    assert configs.load(tmp_path).training.init_from == str(whole)
    text = (tmp_path / "checkpoints" / "1" / "model_card.md").read_text()
    assert f"- First weights: those of `{whole}` at step 9\n" in text


@pytest.mark.thorough
def test_a_stopped_fine_tuning_is_the_uninterrupted_one_bit_for_bit(whole, tmp_path):
    """Also with frozen layers, and where its first weights are gone."""

    def config(n_iters, source="source"):
        made = mlp(n_iters)
        made.training.init_from = str(tmp_path / source)
        made.optim.freeze = ("Dense_[0-2]/.*", ".*/W")
        return made

    shutil.copytree(whole, tmp_path / "source")
    run(config(9), tmp_path / "one")
    run(config(5), tmp_path / "other")
    shutil.rmtree(tmp_path / "source")
    run(config(9), tmp_path / "other")
    one, other = (state_of(config(9), tmp_path / name) for name in ("one", "other"))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    before, after, average = (
        flatten_dict(tree, sep="/")
        for tree in (state_of(mlp(9), whole).ema_params, one.params, one.ema_params)
    )
    frozen = {
        "FourierEmbedding_0/W",
        *(f"Dense_{k}/{n}" for k in range(3) for n in ("kernel", "bias")),
    }
    for name, value in before.items():
        assert np.array_equal(value, after[name]) == (name in frozen)
        assert np.array_equal(value, average[name]) == (name in frozen)
    changed = config(12)
    changed.optim.freeze = ()
    with pytest.raises(ValueError, match=r"optim\.freeze: there \['Dense_\[0-2\]"):
        run(changed, tmp_path / "one")


@pytest.mark.thorough
def test_what_cannot_be_fine_tuned_is_refused_before_anything_is_written(whole, tmp_path):
    for change, message in (
        ({"model.nf": 16}, r"another network, trained with config\.model\.nf = 8 \(here 16\)"),
        (
            {"training.init_from": "nowhere"},
            "there is no folder nowhere, which config",
        ),
        ({"optim.freeze": ("Dense",)}, r"freeze has 'Dense', which matches .* are Dense_\d/bias"),
        ({"optim.freeze": (".*",)}, "freezes all parameters"),
    ):
        config = mlp(9)
        config.training.init_from = str(whole)
        config.update_from_flattened_dict(change)
        with pytest.raises(ValueError, match=message):
            run(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_network_is_tuned_to_images_of_other_classes_and_channels(tmp_path, monkeypatch, caplog):
    """The frozen blocks are those of the run, and the layers that see the images are new."""
    grey = digits_config()
    grey.data.num_classes = 4
    old = flatten_dict(saved_runs.save(grey, tmp_path / "grey"), sep="/")
    images = np.random.RandomState(0).randint(17, size=(32, 8, 8, 3)).astype(np.uint8)
    labels = np.arange(32, dtype=np.int32) % 3
    monkeypatch.setattr(data, "images", lambda config: Dataset(images, images, 17, labels, labels))
    config = digits_config()
    config.data.num_classes, config.data.num_channels = 3, 3
    config.training.update(n_iters=2, init_from=str(tmp_path / "grey"), sinks=("jsonl",))
    config.optim.freeze = ("ResnetBlock_.*",)
    with caplog.at_level(logging.INFO):
        run(config, tmp_path / "colours")
    for line in (
        "made anew: Conv_0 (1 channels there, 3 here)",
        "made anew: Conv_1 (1 channels there, 3 here)",
        "made anew: class_embedding (4 classes there, 3 here)",
    ):
        assert line in caplog.text
    new = flatten_dict(state_of(config, tmp_path / "colours").params, sep="/")
    for name, value in new.items():
        same = old[name].shape == value.shape and np.array_equal(old[name], value)
        assert same == name.startswith("ResnetBlock_"), name
