import dataclasses

import pytest

from configs import default, digits
from experiments.build.fields import sections
from experiments.build.fields.choices import CHOICES, SAMPLER
from experiments.build.fields.sections import Choice

ENCODER = Choice(
    "sampling.method",
    {
        "euler": {"churn": "sampling.s_churn"},
        "heun": {"churn": "sampling.s_churn", "alpha": "sampling.alpha"},
        "plain": {},
    },
)


def config(**sampling):
    result = digits.get_config("vp_score_sde")
    result.sampling.update(sampling)
    return result


def test_a_choice_reads_the_options_of_the_component_that_are_given():
    assert ENCODER.read(config(method="heun", alpha=0.5)) == ("heun", {"alpha": 0.5})
    both = config(method="heun", alpha=0.5, s_churn=2.0)
    assert ENCODER.read(both) == ("heun", {"churn": 2.0, "alpha": 0.5})
    assert ENCODER.read(config(method="plain", rtol=0.1)) == ("plain", {})


def test_options_of_other_components_are_refused_with_their_owners():
    with pytest.raises(ValueError, match=r"alpha is 0.5, but .*method = 'euler'") as error:
        ENCODER.read(config(method="euler", alpha=0.5))
    assert str(error.value).endswith("leave it out, or choose one with it ('heun')")
    with pytest.raises(ValueError, match=r"s_churn is 1.0, .* \('euler', 'heun'\)"):
        ENCODER.read(config(method="plain", s_churn=1.0))
    with pytest.raises(ValueError, match="did you mean 'heun'"):
        ENCODER.read(config(method="heum"))


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.field)
def test_every_option_is_refused_where_it_has_no_effect(choice):
    """For every field of every choice, and every component without it."""
    ours = default.get_config()
    for field in choice.fields():
        for name, options in choice.components.items():
            if field in options.values():
                continue
            sections.put(ours, choice.field, name)
            sections.put(ours, field, "something else")
            with pytest.raises(ValueError, match=f"config.{field} is 'something else'"):
                choice.read(ours)
            sections.reset(ours, [field])


def test_options_of_a_component_that_was_replaced_are_reset():
    """Those of the run's own component; not those that were given, which are refused."""
    before, ours = config(method="heun"), config(method="euler", alpha=0.5, s_churn=2.0)
    sections.reset_options(ours, before, [ENCODER], ["sampling.method"])
    assert ENCODER.read(ours) == ("euler", {"churn": 2.0})
    ours = config(method="euler", alpha=0.5, s_churn=2.0)
    renewing = dataclasses.replace(ENCODER, renews=True)
    sections.reset_options(ours, before, [renewing], ["sampling.method"])
    assert ENCODER.read(ours) == ("euler", {})
    ours = config(method="euler", alpha=0.5)
    sections.reset_options(ours, before, [ENCODER], ["sampling.method", "sampling.alpha"])
    with pytest.raises(ValueError, match=r"alpha is 0.5"):
        ENCODER.read(ours)
    ours = config(method="euler", alpha=0.5)
    sections.reset_options(ours, ours, [ENCODER], ["sampling.n_steps"])
    assert ours.sampling.alpha == 0.5


def test_options_of_a_dataclass_have_the_fields_of_its_section():
    @dataclasses.dataclass
    class Sampler:
        n_steps: int = 3
        denoise: bool = True
        unheard_of: int = 1
        made: int = dataclasses.field(default=0, init=False)

    names = {"denoise": "sampling.noise_removal"}
    options = sections.options_of(Sampler, "sampling", names)
    assert options == {"n_steps": "sampling.n_steps", "denoise": "sampling.noise_removal"}
    assert SAMPLER.components["euler"]["denoise"] == "sampling.noise_removal"


def test_an_option_is_refused_without_the_one_that_it_needs():
    ours = digits.get_config("vp_score_sde")
    sections.check_needed(ours, "guidance.classifier", "run", ("run", "weight"))
    ours.guidance.classifier.weight = 2.0
    with pytest.raises(ValueError, match=r"classifier.weight is 2.0, .* nothing without .*run"):
        sections.check_needed(ours, "guidance.classifier", "run", ("run", "weight"))
    ours.guidance.classifier.run = "somewhere"
    sections.check_needed(ours, "guidance.classifier", "run", ("run", "weight"))
