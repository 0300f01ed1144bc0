import pytest

from configs import points
from experiments.build.fields.choices import STUDY
from experiments.commands.request import Request
from experiments.studies import registry


def test_every_study_has_a_section_of_options():
    assert registry.STUDIES.keys() | {""} == STUDY.components.keys()


def test_options_of_a_study_that_is_not_chosen_are_refused(tmp_path):
    config = points.get_config("mixture")
    config.study.name = "forward"
    config.study.guidance.n_seeds = 5
    with pytest.raises(ValueError, match=r"study.guidance.n_seeds is 5, but .*\('guidance'\)"):
        registry.run(Request(config, tmp_path))


def test_a_study_must_be_named(tmp_path):
    config = points.get_config("mixture")
    with pytest.raises(ValueError, match=r"config.study.name is '': choose one of autoguidance, d"):
        registry.run(Request(config, tmp_path))


def test_an_unknown_study_is_refused(tmp_path):
    config = points.get_config("mixture")
    config.study.name = "guidence"
    with pytest.raises(ValueError, match="did you mean 'guidance'"):
        registry.run(Request(config, tmp_path))
