"""Arguments of the process, and configs of runs as the commands see them."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import samplers
from configs import default
from experiments import command_line, main
from experiments.build.components import diffusion, sampling
from experiments.build.fields import configs, migrate, sections
from experiments.runs.folder import flatten

ROOT = Path(__file__).parents[2]
DIGITS, POINTS = (f"--config={ROOT}/configs/{name}.py" for name in ("digits", "points"))
MODES = dict.fromkeys(main.COMMANDS, "")


def parsed(*arguments):
    return command_line.parse(["main", *arguments], MODES)


def requested(*arguments):
    return command_line.request(parsed(*arguments))


def test_options_of_the_network_that_the_config_leaves_out_can_be_set():
    dit = "--config=configs/emoji.py:dit"
    assert "scan_blocks" not in parsed(dit).config.model
    assert parsed(dit, "--config.model.scan_blocks=True").config.model.scan_blocks
    with pytest.raises(ValueError, match=r"config\.model\.ch_mult does not exist"):
        parsed(dit, "--config.model.ch_mult=(1,)")


def test_flags_may_come_in_any_order_and_form():
    given = parsed("--config.model.nf", "8", "--workdir", "x", DIGITS + ":ve", "--config.seed=7")
    assert (given.mode, given.folder) == ("train", Path("x"))
    assert (given.config.model.nf, given.config.seed, given.config.training.sde) == (8, 7, "vesde")
    assert given.overridden == {"model.nf", "seed"}
    assert not parsed(DIGITS, "--noconfig.data.centered").config.data.centered
    assert parsed(DIGITS, "--config.model.ch_mult=(1,)").config.model.ch_mult == (1,)


def test_a_run_is_named_after_its_config():
    assert parsed(DIGITS).folder == Path("runs/digits")
    assert parsed(DIGITS + ":ve").folder == Path("runs/digits-ve")


def test_labels_and_prompts_may_be_repeated():
    given = parsed(DIGITS, "--label=3", "--label", "5", "--prompt=a cat", "--prompt=a dog")
    assert given.config.sampling.labels == (3, 5)
    assert given.config.sampling.prompt == "a cat\na dog"
    assert given.overridden == {"sampling.labels", "sampling.prompt"}


def test_flags_for_several_processes():
    flags = "--coordinator=here:1", "--num_processes=2", "--process_id=1", "--patience=9"
    assert parsed(DIGITS, *flags).processes == ("here:1", 2, 1, 9)
    assert parsed(DIGITS).processes == (None, None, None, 300)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"give --config=FILE.py\[:VARIANT\], or --workdir=FOLDER of a run"),
        ([DIGITS, "--workdi=x"], r"--workdi is no flag: did you mean --workdir\? --help lists"),
        ([DIGITS, "--workdir"], "Missing value for flag --workdir"),
        (["--confg=a.py"], r"--confg is no flag: did you mean --config\?"),
        ([DIGITS, "more"], "unexpected arguments: more"),
        ([DIGITS, "train"], r"unexpected arguments: train: did you mean --mode=train\?"),
        ([DIGITS, "--mode=trian"], "--mode 'trian' is unknown: did you mean 'train'"),
        ([DIGITS, "--label=cat"], "flag --label=cat: give a whole number"),
        (
            ["--config=configs/digit.py"],
            "there is no config 'configs/digit.py': choose one of .*/d",
        ),
        (["--config=a.py", "--config.seed=7"], "there is no config 'a.py'"),
        ([f"--config={__file__}"], "has no function get_config"),
        ([DIGITS + ":vee"], "did you mean 've'"),
        (["--config=digits"], r"choose one of .*; did you mean \S*configs/digits.py\?"),
        (["--config=configs.digits"], r"did you mean \S*configs/digits.py\?"),
        (["--config=runs/x/config.json"], "for a run, give --workdir=runs/x"),
        (["--config="], "--config is empty"),
        ([DIGITS, "--workdir="], "--workdir is empty"),
        (["--config=README.md"], r"README.md(, line \d+)?: SyntaxError: "),
        ([DIGITS, "--config.training.n_iter=5"], "did you mean config.training.n_iters"),
        ([DIGITS, "--config.modle.nf=5"], "config.modle.nf does not exist: did you mean"),
        (
            [DIGITS, "--config.samplng.n_steps", "5"],
            r"mean config.sampling.n_steps or config.detect.n_steps\? --help",
        ),
        ([DIGITS, "--config.model.zzz=5"], "did you mean config.model.nf or config.model.fir or"),
        ([DIGITS, "--config.lr=5"], r"did you mean config.optim.lr\? --help"),
        ([DIGITS, "--model.nf=5"], r"--model.nf is no flag: did you mean config.model.nf or"),
        ([DIGITS, "--config.xyz=5"], "config.xyz does not exist: --help all lists every field"),
        ([DIGITS, "--config.model=5"], "config.model is a section: give one of its fields"),
        ([DIGITS, "--config.optim.lr=abc"], "flag --config.optim.lr=abc: give a number"),
        (
            [DIGITS, "--config.sampling.cfg_weight=2"],
            "config.sampling.cfg_weight is now config.guidance.classifier_free.weight",
        ),
        ([DIGITS, "--noconfig.training.stratified"], "is now config.objective.stratified"),
    ],
)
def test_a_mistake_is_named_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        parsed(*arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def get_config(:", "my config.py: SyntaxError: invalid syntax"),
        ("import none_such", "my config.py, line 1: ModuleNotFoundError: No module named"),
        ("\ndef get_config():\n    x", "my config.py, line 3: NameError: name 'x' is not defined"),
        ("def get_config(): {}['k']", "my config.py, line 1: KeyError: k"),
        ("def get_config(): pass", "my config.py returns NoneType, not a config"),
        ("def get_config(): raise ValueError('set NF')", "^set NF"),
    ],
)
def test_a_config_file_that_fails_is_named_with_its_line(tmp_path, source, message):
    file = tmp_path / "my config.py"
    file.write_text(source)
    with pytest.raises(ValueError, match=message) as error:
        parsed(f"--config={file}")
    assert "\n" not in str(error.value)
    file.write_text("def get_config(): pass")
    with pytest.raises(ValueError, match=r"has no variants, but --config names 'large'"):
        parsed(f"--config={file}:large")


def test_a_run_s_folder_in_place_of_another_is_found(folder):
    with pytest.raises(ValueError, match=f"for a run, give --workdir={folder}"):
        parsed(f"--config={folder}")
    for part in ("config.json", "checkpoints/20"):
        with pytest.raises(ValueError, match=f"did you mean --workdir={folder}\\?"):
            parsed(f"--workdir={folder / part}", "--mode=sample")


def test_home_is_understood_in_every_path(tmp_path, monkeypatch):
    """Names with spaces, colons and letters of any script are names like others."""
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "a: b" / "конфиг.py"
    file.parent.mkdir()
    file.write_text(Path(f"{ROOT}/configs/digits.py").read_text())
    flags = "--config=~/a: b/конфиг.py:ve", "--workdir=~/名前 x", "--checkpoint=~/a.pth"
    paths = [f"--config.{field}=~/{field} é" for field in configs.PATHS]
    request = requested(*flags, *paths, "--mode=import")
    assert (request.folder, request.checkpoint) == (tmp_path / "名前 x", f"{tmp_path}/a.pth")
    for field in configs.PATHS:
        assert sections.get(request.config, field) == f"{tmp_path}/{field} é"
    assert parsed(flags[0]).folder == Path("runs/конфиг-ve")
    assert command_line.named_folder(["main", *flags, "--no-such=1"]) == tmp_path / "名前 x"
    configs.save(request.config, request.folder)
    assert configs.load(request.folder).to_dict() == request.config.to_dict()


def printed_help(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        parsed("--help", *words)
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_lists_modes_flags_and_sections_on_two_screens(capsys):
    text = printed_help(capsys)
    assert all(re.search(rf"(?m)^  {mode} ", text) for mode in MODES)
    assert all(f"  --{name} " in text for name in command_line.FLAGS)
    flat = flatten(default.get_config().to_dict())
    assert all(f"\n  {field.split('.')[0]} " in text for field in flat if "." in field)
    assert len(text.splitlines()) < 90
    assert max(map(len, text.splitlines())) <= 110


def test_help_of_words_lists_fields(capsys):
    text = printed_help(capsys, "all")
    listed = re.findall(r"(?m)^  --config\.([\w.]+)=", text)
    assert sorted(listed) == sorted(flatten(default.get_config().to_dict()))
    assert "--config.sampling.snr=None" in text
    (about,) = re.findall(r"(?m)^  --config\.training\.sde='vpsde' +(.*)", text.replace('"', "'"))
    assert about.startswith("or 'vesde'")
    assert "'cld'" in about
    own = printed_help(capsys, "noise_density.", "xyz").splitlines()
    assert [line.split("=")[0] for line in own] == [
        f"  --config.noise_density.{name}" for name in ("name", "mean", "std", "std_above")
    ]
    with pytest.raises(ValueError, match=r"--help xyz: no field has such a name"):
        parsed("--help", "xyz")


def test_another_sampler_starts_from_its_own_defaults():
    """Of the config's 40 steps of another sampler, method=edm would make 79 evaluations."""
    run = f"{DIGITS}:vp_score_sde"
    assert sampling.sampler(parsed(run).config).n_steps == 40
    made = sampling.sampler(parsed(run, "--config.sampling.method=edm").config)
    assert made == samplers.EDM()
    given = "--config.sampling.method=edm", "--config.sampling.n_steps=9"
    assert sampling.sampler(parsed(run, *given).config) == samplers.EDM(9)
    own = sampling.sampler(parsed(f"{DIGITS}:vp", "--config.sampling.method=edm").config)
    assert own.n_steps == 18  # it is the config's own sampler: its options stay


def test_another_component_drops_the_options_of_the_one_before():
    config = parsed(DIGITS + ":vlb", "--config.sampling.method=probability_flow").config
    assert config.sampling.variance is None
    sampler: Any = sampling.sampler(config)
    assert sampler.rtol == 1e-5
    given = f"{DIGITS}:vlb", "--config.sampling.method=heun", "--config.sampling.snr=0.1"
    message = r"config.sampling.snr is 0.1, but .*'heun' has no such option.*'predictor_corrector'"
    with pytest.raises(ValueError, match=message):
        sampling.sampler(parsed(*given).config)


def test_none_is_the_default_of_every_optional_field():
    """config.sampling.rho=None was no float; a text was "None"."""
    fields = flatten(default.get_config().to_dict())
    optional = [name for name, value in fields.items() if value is None]
    given = parsed(DIGITS, *(f"--config.{name}=None" for name in optional))
    assert {sections.get(given.config, name) for name in optional} == {None}
    assert given.overridden == set(optional)
    edm = f"{DIGITS}:edm", "--config.sampling.n_steps", "None", "--config.noise_density.mean=None"
    config = parsed(*edm).config
    assert (config.sampling.n_steps, config.noise_density.mean) == (None, None)


def test_none_takes_the_place_of_the_numbers_of_a_saved_run(tmp_path):
    config = parsed(
        f"{DIGITS}:edm", "--config.sampling.sigma_max=40", "--config.eval.rtol=1"
    ).config
    configs.save(config, tmp_path)
    names = "sampling.sigma_max", "sampling.n_steps", "eval.rtol"
    assert None not in [sections.get(configs.load(tmp_path), name) for name in names]
    nones = (f"--config.{name}=None" for name in names)
    given = requested("--mode=sample", f"--workdir={tmp_path}", *nones)
    assert [sections.get(given.config, name) for name in names] == [None] * 3


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        *[("optim.lr", "a number"), ("model.nf", "an integer"), ("data.centered", "True or False")],
        *[("data.path", "a string"), ("ablate.nfe", r"a tuple, such as \(13, 21, 35\)")],
    ],
)
def test_other_fields_are_never_none(field, expected):
    with pytest.raises(ValueError, match=f"config.{field} is None: it must be {expected}"):
        parsed(DIGITS, f"--config.{field}=None")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("study.posterior.methods=dps,pigdm", ("dps", "pigdm")),
        ("study.posterior.methods=(dps, pigdm)", ("dps", "pigdm")),
        ("study.posterior.methods=[dps,pigdm]", ("dps", "pigdm")),
        ("optim.freeze=[ab]_0", ("[ab]_0",)),
        ("study.posterior.methods=dps", ("dps",)),
        ("study.posterior.methods=('dps',)", ("dps",)),
        ("ablate.solvers=euler,heun,", ("euler", "heun")),
        ("optim.freeze=Conv_.{1,2}/kernel,[ab]_0", ("Conv_.{1,2}/kernel", "[ab]_0")),
        ("sampling.labels=", ()),
        ("study.posterior.nfe=40,80", (40, 80)),
    ],
)
def test_tuples_need_no_quotes(given, expected):
    field, _, _ = given.partition("=")
    found = sections.get(parsed(DIGITS, f"--config.{given}").config, field)
    assert found == expected


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["accuracy=0.1"], (0.1, None, None)),
        (["rtol=0.1"], (None, 0.1, None)),
        (["accuracy=0.1", "rtol=0.2"], (0.1, 0.2, None)),
        ([], (0.01, None, None)),
    ],
    ids=str,
)
def test_an_accuracy_and_tolerances_replace_each_other(given, found):
    """VDM's config has an accuracy; a run of an earlier version has tolerances."""
    options = [f"--config.eval.{field}" for field in given]
    own = parsed(f"{DIGITS}:vdm", *options).config.eval
    assert (own.accuracy, own.rtol, own.atol) == found


def test_a_dropped_option_takes_its_own_options_with_it():
    config = parsed(DIGITS + ":edm", "--config.noise_density.mean=-1.0").config
    assert config.noise_density.mean == -1.0
    edm = "--config.noise_density.mean=-1.0", "--config.objective.name=vdm"
    config = parsed(DIGITS + ":edm", *edm).config
    assert (config.noise_density.name, config.weighting.name) == ("uniform", "variance")
    config = parsed(DIGITS + ":edm", "--config.objective.name=vdm").config
    assert config.noise_density.mean is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a run of digits, without checkpoints."""
    folder = tmp_path_factory.mktemp("run")
    configs.save(parsed(DIGITS).config, folder)
    return folder


def test_a_run_is_used_with_its_own_config_and_overrides_on_top(folder):
    workdir = f"--workdir={folder}"
    request = requested(workdir, "--mode=sample", "--config.sampling.n_steps=5", "--config.seed=7")
    assert request.folder == folder
    assert (request.config.sampling.n_steps, request.config.seed) == (5, 7)
    assert request.config.data.dataset == "digits"
    same = requested(workdir, DIGITS, "--mode=sample").config
    assert same.to_dict() == configs.load(folder).to_dict()
    requested(workdir, "--mode=sample", "--config.optim.lr=0.002")  # its own


def test_an_override_that_a_trained_model_cannot_have_is_refused(folder):
    message = r"config.model.nf, config.optim.lr: the model in .* was trained with its own"
    with pytest.raises(ValueError, match=message):
        requested(
            f"--workdir={folder}",
            *("--mode=sample", "--config.optim.lr=0.5", "--config.model.nf=8", "--config.seed=7"),
        )


def test_another_config_is_refused_with_the_fields_that_differ(folder):
    with pytest.raises(ValueError, match="belongs to another config") as error:
        requested(f"--workdir={folder}", DIGITS + ":ve", "--mode=sample", "--config.model.nf=32")
    assert "training.sde: there 'vpsde', here 'vesde'" in str(error.value)
    assert "model.nf" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no run in .*: give the --workdir of a run, or --config=FILE"),
        ('{"version": 2, "mod', "config.json is damaged"),
        ("\xff", "config.json is damaged: 'utf-8' codec can't decode"),
        ("[]", "config.json is not the config of a run"),
        ('{"version": 4, "model": {}}', "made by a later version of this program.* version 4"),
    ],
)
def test_a_folder_without_a_readable_run_is_refused_in_one_line(tmp_path, text, message):
    if text is not None:
        (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    for mode in ("sample", "train"):
        with pytest.raises(ValueError, match=message) as error:
            requested(f"--workdir={tmp_path}", f"--mode={mode}")
        assert "\n" not in str(error.value)


OLD = json.loads((ROOT / "tests/golden/config_v1.json").read_text())


@pytest.fixture
def old(tmp_path):
    """A function that gives the config of an earlier version's run."""

    def load(name):
        (tmp_path / "config.json").write_text(json.dumps(OLD[name]))
        return configs.load(tmp_path)

    return load


@pytest.mark.parametrize("name", sorted(OLD))
def test_a_run_of_the_version_before_opens_and_is_written_anew(old, name, tmp_path):
    config = old(name)
    assert not any(field in flatten(config.to_dict()) for field in migrate.RENAMED)
    configs.save(config, tmp_path)
    assert configs.load(tmp_path) == config
    assert json.loads((tmp_path / "config.json").read_text())["version"] == configs.VERSION


def test_the_old_defaults_are_the_defaults(old):
    """But for likelihoods, whose accuracy takes the place of tolerances, and grids of ablate."""
    found = {name: value for name, value, _ in configs.differences(old("default"), ())}
    likelihood = {"eval.rtol": 1e-5, "eval.atol": 1e-5, "eval.probe": "rademacher"}
    grids = {"ablate.weights": [1.0, 1.67, 2.5], "ablate.scales": [1.0004, 1.005, 1.02, 1.05]}
    assert found == likelihood | grids


@pytest.mark.thorough
def test_options_of_the_version_before_are_under_their_new_names(old):
    found = {name: value for name, value, _ in configs.differences(old("edm_guided"), ())}
    assert {name: found[name] for name in found if name.startswith("guidance.")} == {
        "guidance.classifier.run": "runs/digits-edm_classifier",
        "guidance.classifier_free.weight": 1.5,
        "guidance.discriminator.run": "runs/digits-discriminator",
        "guidance.discriminator.weight": 2.0,
        "guidance.epsilon_scaling.scale": 1.01,
        "guidance.schedule.name": "interval",
        "guidance.schedule.low": 0.1,
        "guidance.schedule.high": 2.0,
        "guidance.time_shift.window": 0.5,
    }
    assert (found["noise_density.name"], found["weighting.name"]) == ("log_normal", "edm")
    vdm, vlb, autoencoder = map(old, ("vdm", "vlb", "vq_autoencoder"))
    assert (vdm.objective.name, vdm.model.gamma_min, vlb.objective.name) == ("vdm", -8.0, "hybrid")
    sde: Any = diffusion.sde(vdm)
    assert sde.gamma_max == 6.0
    assert autoencoder.autoencoder.vq.codebook_size == 64
    assert autoencoder.autoencoder.adversarial.weight == 0.1


def test_runs_that_refer_to_each_other_may_be_moved_together(tmp_path, monkeypatch):
    """Absolute paths, and those that lead nowhere, stay as they are."""
    (tmp_path / "here" / "runs" / "other").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    config = parsed(DIGITS).config
    config.guidance.classifier.run = "runs/other"
    config.data.autoencoder = str(tmp_path / "absolute")
    config.data.path = "user/dataset"
    configs.save(config, Path("runs/run"))
    for _ in range(2):
        configs.check_same(config, Path("runs/run"), ())
        configs.save(configs.load(Path("runs/run")), Path("runs/run"))
    shutil.move(tmp_path / "here" / "runs", tmp_path / "there")
    for place in (tmp_path, tmp_path / "there" / "run"):
        monkeypatch.chdir(place)
        moved = configs.load(tmp_path / "there" / "run")
        assert Path(moved.guidance.classifier.run).resolve() == tmp_path / "there" / "other"
        assert moved.data.autoencoder == str(tmp_path / "absolute")
        assert moved.data.path == "user/dataset"


def test_paths_of_runs_are_found_beside_a_folder_that_is_a_link(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("runs/other", "elsewhere/run"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "runs" / "run").symlink_to(tmp_path / "elsewhere" / "run")
    config = parsed(DIGITS).config
    sections.put(config, "sampling.low_res", "runs/other")
    configs.save(config, Path("runs/run"))
    assert configs.load(Path("runs/run")).sampling.low_res == "runs/other"
