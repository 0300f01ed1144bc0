"""Every command, mode, field and extra that the texts name exists; every command runs, small."""

import configparser
import dataclasses
import importlib
import io
import json
import re
import sys
import zipfile
from contextlib import redirect_stdout
from pathlib import Path

import golden
import jax
import named_commands
import numpy as np
import pytest
import weights
from named_commands import ROOT
from PIL import Image

from configs import cifar10, default
from experiments import command_line, config_file, main
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark.presets import PRESETS
from experiments.benchmark.subject import Subject
from experiments.build import published
from experiments.build.fields import choices, configs, sections
from experiments.data import sources
from experiments.data.dataset import Dataset
from experiments.evaluation import features, metrics, reference
from experiments.pipeline import show
from experiments.runs import folder as folders
from models.published import FORMATS, Found
from models.registry import MODELS
from models.weights import hub

COMMANDS = [command for command in named_commands.all_commands() if command[0] != "pytest"]
MAIN = [command[1:] for command in COMMANDS if command[0] == "experiments.main"]
MODES = dict.fromkeys(main.COMMANDS, "")
OTHERS = {"preset", "only", "output"}  # of the benchmark and the studies
OTHERS |= {"dependency", "nodes", "signal", "time", "command", "worker", "zone"}  # SLURM, gcloud


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder, where a user has the repository's configs and their own files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(published, "open_", opened)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    return tmp_path


def parsed(argv):
    return command_line.parse(["main", *argv], MODES)


def makes(given):
    """The folder or file that a command makes for other ones; None if it makes none."""
    made = {"train": given.folder, "import": given.folder}
    return (made | {"generate": given.folder / "generated.npz"}).get(given.mode)


def needs(given):
    """The folders and files that a command reads of other ones; known scores need none."""
    paths = [sections.get(given.config, field) for field in configs.RUNS]
    own = given.mode not in command_line.WITHOUT_RUN and given.config.data.dataset != "mixture"
    return [Path(path) for path in paths if path and path.startswith("runs/")] + [
        given.folder
    ] * own


def test_the_commands_are_found():
    assert len(COMMANDS) > 55
    assert ("--mode=sample", "--workdir=runs/digits", "--config.sampling.n_samples=100") in MAIN
    assert {argv[0] for argv in COMMANDS} >= {
        "experiments.benchmark",
        "experiments.studies.langevin",
    }


@pytest.mark.thorough
def test_every_command_is_understood_and_others_make_what_it_needs(place):
    """Runs are made as their configs alone."""
    made, understood = set(), []
    for argv in sorted(MAIN, key=lambda argv: not any(map(starts, argv))):
        if "--help" in argv:
            continue
        given = parsed(argv)
        understood.append(given)
        if path := makes(given):
            made.add(path)
            if path.suffix == "" and not folders.has_run(path):
                configs.save(given.config, path)
    for given in understood:
        assert made.issuperset(needs(given)), given
        command_line.request(given)


def starts(flag):
    """True for a flag with which a command can start a run."""
    return flag.startswith(("--config=", "--checkpoint="))


def spoken():
    """What users read, in one text; in modules that is the strings."""
    return "\n".join(text for _, text in named_commands.texts())


@pytest.mark.thorough
def test_every_mode_flag_and_extra_that_is_named_exists():
    text = spoken()
    assert set(re.findall(r"--mode=([a-z_]+)", text)) <= MODES.keys()
    flags = set(re.findall(r"(?<![\w-])--([a-z_]+)(?==)", text))
    assert {
        flag for flag in flags if not flag.startswith("xla_")
    } <= command_line.FLAGS.keys() | OTHERS
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = set(re.findall(r"pip install -e '\.\[(\w+)\]'", text))
    assert extras <= set(setup["options.extras_require"])


@pytest.mark.thorough
def test_every_field_that_is_named_exists():
    """Sections may be named too, and options of networks."""
    fields = set(folders.flatten(default.get_config().to_dict()))
    fields |= {
        f"model.{field.name}" for model in MODELS.values() for field in dataclasses.fields(model)
    }
    known = fields | {field.rsplit(".", n)[0] for field in fields for n in (1, 2)}
    named = set(re.findall(r"\bconfig\.((?:[a-z]\w*\.)+[a-z]\w*)", spoken()))
    assert len(named) > 100
    assert {name for name in named - known if not name.endswith("_")} == set()  # a part of one


SMALL = {
    "training": {"n_iters": 2, "batch_size": 8, "log_freq": 1, "steps_per_jit": 1, "eval_freq": 2},
    "sampling": {"n_samples": 8, "batch_size": 8},
    "eval": {"batch_size": 50, "rtol": 0.1, "atol": 0.1, "num_samples": 20, "bound_steps": 20},
    "benchmark_solvers": {"solvers": ("euler",), "nfe": (5,)},
    "exposure_bias": {"solvers": ("euler",), "nfe": (5,), "n_samples": 8},
    "ablate": {"solvers": ("euler",), "nfe": (5,), "weights": (1.0,), "scales": (1.01,)},
    "model": {
        "nf": 8,
        "num_res_blocks": 1,
        "attn_resolutions": (),
        "blocks_per_group": 1,
        "norm_groups": 4,
    },
    "optim": {"warmup": 0},
}
STUDIES = {  # options of studies, which are the defaults too: none of them counts as set
    "posterior": {"dims": (2,), "nfe": (4,), "n_samples": 19, "n_measurements": 1},
    "discriminator": {"nfe": 5, "n_samples": 20, "n_data": 20, "weights": (1.0,)},
    "one_step": {"n_levels": 3, "n_samples": 8},
    "trajectories": {"steps": 100, "n_samples": 100},
    "langevin": {"n_iters": 20, "n_samples": 20},
    "autoguidance": {"n_samples": 20, "n_seeds": 2, "n_iters": 2},
    "grid": {"nfe": (5,), "n_fine": 20, "n_samples": 8},
}
SIDE = 16  # of images in place of larger ones
NUMBER = re.compile(r"(?<=\.n_samples=)\d{3,}$")


def shrunk(config):
    """The config of a file with a small network, few steps, and images that are here."""
    foreign = choices.NETWORK.fields() - set(choices.NETWORK.components[config.model.name].values())
    for section, values in SMALL.items():
        known = [n for n in values if n in config[section] and f"{section}.{n}" not in foreign]
        config[section].update({name: values[name] for name in known})
    if config.coupling.name:
        config.coupling.group = 4
    if config.latent.name:
        config.latent.nf = 8
    if config.data.dataset != "digits":
        config.training.at_end = ()
    config.ablate.update(n_samples=20, n_seeds=2)
    for name, values in STUDIES.items():
        config.study[name].update(values)
    if config.sampling.method in ("predictor_corrector", "ddpm"):
        config.sampling.n_steps = 25  # the least of VP is 21
    if "hidden_size" in config.model:
        config.model.update(hidden_size=16, depth=1, num_heads=2)
    if config.data.dataset in ("folder", "cifar10"):
        config.data.image_size, config.data.num_classes = SIDE, 10
    if config.data.dataset == "cifar10":
        config.data.path = "images.npz"
    if config.model.name != "autoencoder" and "ch_mult" in config.model:
        config.model.ch_mult = config.model.ch_mult[:2]
    return config


def files_of_a_user(folder):
    """Data sets with the names that the texts give them."""
    random = np.random.RandomState(0)
    images = random.randint(256, size=(60, SIDE, SIDE, 3), dtype=np.uint8)
    labels = {"train_labels": np.arange(40) % 10, "test_labels": np.arange(20) % 10}
    np.savez(folder / "images.npz", train=images[:40], test=images[40:], **labels)
    caption = json.dumps({"text": "seven", "confidence": 0.5})
    (folder / "captions.jsonl").write_text(f"{caption}\n" * 1797)  # of all digits
    words = np.eye(10, dtype="f4")[np.arange(1797) % 10]
    np.savez(folder / "captions.npz", embeddings=words, confidence=np.full(1797, 0.5, "f4"))
    for argv in MAIN:
        for name in re.findall(r"--data=(\S+)", " ".join(argv)):
            (folder / name).mkdir()
            for k, image in enumerate(images):
                Image.fromarray(image).save(folder / name / f"{k:03}.png")
        for name in re.findall(r"config.data.path=(\S+\.zip)", " ".join(argv)):
            with zipfile.ZipFile(folder / name, "w") as archive:
                for k, image in enumerate(images):
                    png = io.BytesIO()
                    Image.fromarray(image).save(png, "PNG")
                    archive.writestr(f"{k:03}.png", png.getvalue())
                labels = [[f"{k:03}.png", k % 10] for k in range(len(images))]
                archive.writestr("dataset.json", json.dumps({"labels": labels}))


def emoji(spec):
    """Random pictures in place of emoji, with names."""
    shape, names = (60, *spec.shape), np.array(["red heart, symbols"] * 60)
    images = np.random.RandomState(0).randint(256, size=shape, dtype=np.uint8)
    labels = np.arange(60)
    arrays = {"train_labels": labels[:40] % 8, "test_labels": labels[40:] % 8}
    arrays |= {"train_captions": names[:40], "test_captions": names[40:]} if spec.captions else {}
    return Dataset(images[:40], images[40:], 256, **arrays)


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    """A user's folder, which keeps the runs, and what makes the commands' work small."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "configs").symlink_to(ROOT / "configs")
    files_of_a_user(folder)
    read = config_file.read
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(config_file, "read", lambda *names: shrunk(read(*names)))
        for name, values in STUDIES.items():
            for option, value in values.items():
                patch.setitem(sections.DEFAULT.study[name], option, value)
        patch.setitem(sources.SOURCES, "emoji", sources.SOURCES["emoji"]._replace(load=emoji))
        patch.setattr(published, "open_", opened)
        patch.setattr(features, "load", lambda _: None)
        patch.setattr(features, "inception_v3", lambda _: features.random_conv())
        patch.setattr(show, "_density", lambda *_: np.zeros((2, 2)))
        for module in (metrics, reference):
            patch.setattr(module, "PAIRED", 200)
        yield folder


OPEN = published.open_


def opened(path):
    """A small model in place of one on the hub, and random weights in place of a file's."""
    return OPEN(golden.FOLDER / "diffusers_ddpm_tiny") if hub.is_name(path) else RandomWeights(path)


class RandomWeights(published.Published):
    """Weights of any config's network, in place of those of a file."""

    def __init__(self, path):
        form = FORMATS["score_sde"]
        super().__init__(Path(path), form, Found({}, {"seed": 0}), None)

    def config(self, otherwise=None):
        return otherwise or cifar10.get_config("edm_ddpmpp")

    def convert(self, bare, arrays):
        return iter(weights.drawn(list(bare.shapes.values())))


def run(argv, provided):
    """Runs a command of experiments.main, after those that make what it needs."""
    argv = [NUMBER.sub("16", re.sub(r"=/(mnt/)?shared/", "=shared/", flag)) for flag in argv]
    if not any(map(starts, argv)) and not {"--mode=prepare", "--mode=configs"} & set(argv):
        (folder,) = (flag.removeprefix("--workdir=") for flag in argv if "--workdir" in flag)
        provided(Path(folder))
    given = parsed(argv)
    for path in set(needs(given)) - {makes(given)}:
        provided(path)
    with redirect_stdout(io.StringIO()) as printed:
        main.main(["main", *argv])
    return printed.getvalue()


@pytest.fixture(scope="module")
def provided(user):
    """provided(path): the runs and files that other commands make, made when they are asked for."""
    makers = {}
    for argv in MAIN:
        if any(map(starts, argv)):
            makers.setdefault(makes(parsed(argv)), argv)

    def provide(path):
        if not path.exists():
            run(makers[path], provide)
        assert path.exists()

    return provide


@pytest.mark.slow
@pytest.mark.parametrize("argv", MAIN, ids=" ".join)
def test_every_command_runs(argv, provided):
    if "--topology=v5e:2x4" in argv:
        pytest.importorskip("libtpu")
    if "--help" in argv:
        with pytest.raises(SystemExit) as ended:
            main.main(["main", *argv])
        assert ended.value.code == 0
        return
    printed = run(argv, provided)
    assert not re.search("Traceback|Error", printed)
    for line in printed.splitlines():
        if line.endswith((".png", ".npz", ".csv")):
            assert Path(line).is_file()


NETWORK = {"nf": 8, "num_res_blocks": 1, "ch_mult": (1,), "attn_resolutions": ()}


def small_preset(preset):
    """A preset of the benchmark with its own models and samplers, all of them small."""

    def smaller(value):
        if isinstance(value, tuple):
            return tuple(map(smaller, value))
        if not isinstance(value, Subject):
            return value
        own = value.config().model
        changes = [(f"model.{name}", NETWORK[name]) for name in NETWORK if name in own]
        return value.having(("training.batch_size", 4), *changes)

    models = {name: smaller(value) for name, value in vars(preset).items()}
    sizes = {"train_steps": 2, "save_every": 1, "n_samples": 4, "matrix": 64, "random_images": 40}
    return dataclasses.replace(preset, **models | sizes | {"convolution": (2, 8, 4)})


@pytest.mark.slow
@pytest.mark.parametrize(
    "argv", [argv for argv in COMMANDS if argv[0] == "experiments.benchmark"], ids=" ".join
)
def test_every_command_of_the_benchmark_runs(argv, place, monkeypatch):
    """All samplers of the preset draw, from networks of width 8."""
    if "--preset=gpu" in argv and jax.default_backend() == "cpu":
        pytest.skip("the preset's networks take a CPU more than ten minutes to compile")
    for name, preset in PRESETS.items():
        monkeypatch.setitem(PRESETS, name, small_preset(preset))
    benchmark.main([*argv[1:], "--repeats=1"])
    report = json.loads(Path("benchmark.json").read_text())
    assert report["failed"] == []
    assert len(report["figures"]) >= 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "argv", [argv for argv in COMMANDS if ".studies." in argv[0]], ids=" ".join
)
def test_every_command_of_a_study_without_a_run_runs(argv, place, monkeypatch):
    study = importlib.import_module(argv[0])
    for name, value in {"N_STEPS": 30, "LINE_STEPS": 30, "BATCH": 32, "TIMED_STEPS": 1}.items():
        if hasattr(study, name):
            monkeypatch.setattr(study, name, value)
    monkeypatch.setattr(sys, "argv", list(argv))
    study.main()
    assert Path(argv[1].removeprefix("--output=")).is_file()
