import dataclasses
import json

import pytest
from exact_models import guided

import sde_lib
from configs import digits
from experiments.build.fields import choices, configs, migrate, sections
from experiments.build.fields.migrate import OLD_DEFAULTS, RENAMED
from experiments.pipeline.classifier_free import ClassifierFree
from experiments.pipeline.guidance import GUIDES, EpsilonScaling
from experiments.tasks.autoencoder import Losses


def nested(**fields):
    """Sections of dictionaries, by full names."""
    result = {}
    for field, value in fields.items():
        *parents, name = field.split(".")
        section = result
        for parent in parents:
            section = section.setdefault(parent, {})
        section[name] = value
    return result


@pytest.mark.parametrize("old", RENAMED)
def test_a_renamed_field_has_its_new_name_unless_it_is_the_old_default(old):
    new, old_default = RENAMED[old]
    owner = migrate.OLD_SCHEDULES.get(old)
    chosen = {"sampling.guidance_schedule": owner} if owner else {}
    found = migrate.migrate(nested(**{old: "a value"}, **chosen))
    assert found == {new: "a value"} | ({"guidance.schedule.name": owner} if owner else {})
    assert migrate.migrate(nested(**{old: old_default})) == {}
    assert migrate.new_name(old) == new
    sections.get(sections.DEFAULT, new)  # exists, and the old one does not
    with pytest.raises((KeyError, TypeError)):
        sections.get(sections.get(sections.DEFAULT, old), "name")


@pytest.mark.parametrize(
    ("section", "component"),
    [
        *((f"guidance.{name}", kind) for name, kind in GUIDES.items()),
        ("guidance.classifier_free", ClassifierFree),
        ("autoencoder.perceptual", Losses),
        ("autoencoder.adversarial", Losses),
    ],
)
def test_defaults_of_the_components_are_the_old_ones(section, component):
    fields = {field.name: field.default for field in dataclasses.fields(component)}
    for new, old_default in RENAMED.values():
        parent, _, name = new.rpartition(".")
        if parent == section and name not in ("run", "window", "guided"):
            name = name if name in fields else f"{section.split('.')[-1]}_{name}"
            absent = {"negative_label": -1, "negative_prompt": ""}  # of the conditions
            assert absent.get(new.split(".")[-1], fields.get(name)) == old_default


@pytest.mark.parametrize("field", OLD_DEFAULTS)
def test_an_old_default_is_the_default_of_the_component_now(field):
    assert migrate.migrate(nested(**{field: OLD_DEFAULTS[field]})) == {}
    assert migrate.migrate(nested(**{field: "a value"})) == {field: "a value"}
    assert sections.get(sections.DEFAULT, field) is None
    assert migrate.new_name(field) is None


def save_old(folder, **fields):
    """A config.json of the first version, with every field of then."""
    old = digits.get_config("vp_score_sde").to_dict()
    values = nested(**{name: default for name, (_, default) in RENAMED.items()})
    values |= {"seed": 7}
    for section in ("data", "model", "eval", "optim", "edit", "mesh"):
        values[section] = old[section]
    for section in ("training", "sampling", "autoencoder"):
        values.setdefault(section, {})
        values[section] = {
            name: value for name, value in old[section].items() if not isinstance(value, dict)
        } | values[section]
    for name, value in ({**OLD_DEFAULTS, **fields}).items():
        section, field = name.split(".")
        values[section][field] = value
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def test_a_run_of_the_first_version_is_what_it_was(tmp_path):
    """Its options that count have their new places, and those of other components are gone."""
    config = configs.load(
        save_old(
            tmp_path / "run",
            **{
                "sampling.eps_scale": 1.1,
                "sampling.dg_boost": True,  # without a discriminator
                "sampling.schedule_low": 0.3,  # without the schedule "interval"
                "training.noise_std": 1.5,  # without the density "log_normal"
                "model.sigma_max": 9.0,  # without the SDE "vesde"
                "training.input_perturbation": 0.1,
                "model.beta_max": 15.0,
            },
        )
    )
    made = guided(config)
    assert made.guides == (EpsilonScaling(1.1),)
    assert made.seed == 7
    assert made.sde == sde_lib.VP(0.1, 15.0)
    assert choices.OBJECTIVE.read(config)[1]["input_perturbation"] == 0.1
    for name in ("discriminator.boost", "schedule.low"):
        assert sections.get(config, f"guidance.{name}") is None
    configs.save(config, tmp_path / "again")
    again = configs.load(tmp_path / "again")
    assert configs.fields(again) == configs.fields(config)


def test_a_density_of_the_first_version_keeps_its_numbers(tmp_path):
    fields = {"training.noise_density": "log_normal", "training.noise_mean": 0.4}
    fields |= {"training.likelihood_weighting": False, "training.importance_sampling": False}
    config = configs.load(save_old(tmp_path / "run", **fields))
    assert choices.NOISE_DENSITY.read(config) == ("log_normal", {"mean": 0.4})
