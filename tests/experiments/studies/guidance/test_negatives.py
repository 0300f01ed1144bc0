import pytest
from PIL import Image

from experiments import main
from experiments.build import pipelines
from experiments.data.captions import ByteReader, EmbeddingReader
from experiments.pipeline.conditions import Conditions, Text
from experiments.studies.guidance.negatives import models


@pytest.mark.thorough
def test_a_grid_has_a_column_for_each_negative_class(digits_run, capsys):
    options = "weights=(1.0,3.0)", "nfe=(5,)", "n_samples=20", "n_seeds=2", "negatives=(1,2)"
    fields = [f"--config.study.guidance.{option}" for option in options]
    argv = "main", "--mode=study", "--config.study.name=guidance", f"--workdir={digits_run.folder}"
    main.main([*argv, *fields, "--config.sampling.label=3"])
    path = capsys.readouterr().out.splitlines()[-1]
    assert path.endswith("_negatives.png")
    with Image.open(path) as image:
        assert image.width == pytest.approx(3 * 9 * 6, abs=6)  # none, not 1, not 2


@pytest.mark.thorough
def test_negatives_that_the_model_cannot_have_are_refused(digits_run):
    model = pipelines.trained(digits_run.config, digits_run.folder)
    for value, message in {
        "red": "'red': it must be the number",
        10: "negative_label is 10",
    }.items():
        with pytest.raises(ValueError, match=message):
            models(model, [value])
    bare = model.replace(conditions=Conditions(()))
    with pytest.raises(ValueError, match="knows neither text nor classes"):
        models(bare, [1])


def test_a_negative_prompt_takes_the_place_of_a_negative_class():
    reader = ByteReader(8, ("fox",))
    against = Text(reader).against("owl")
    assert against.reader == ByteReader(8, ("fox",), "owl")
    with pytest.raises(ValueError, match="reads embeddings"):
        Text(EmbeddingReader("x.npz", 4)).against("owl")
