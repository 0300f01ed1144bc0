import jax
import numpy as np
import pytest
import weights
from flax.traverse_util import unflatten_dict

import experiments
from configs import digits
from experiments.build.fields import configs
from experiments.build.published import open_
from experiments.commands import export
from experiments.commands.request import Request
from experiments.training import imported
from models import published


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    """The config, the folder and the weights of a small run, and its shapes."""
    folder, config = tmp_path_factory.mktemp("run"), digits.get_config("vp_score_sde")
    config.model.update(nf=8, ch_mult=(1,), attn_resolutions=(), num_res_blocks=0)
    shapes = published.skeleton(config).shapes
    params = weights.drawn(unflatten_dict(dict(shapes)))
    values = [params_at(params, place) for place in shapes]
    imported.write(folder, 1234, shapes, values)
    configs.save(config, folder)
    return config, folder, params


def params_at(params, place):
    for name in place:
        params = params[name]
    return params


@pytest.mark.parametrize("name", ["safetensors", "score_sde"])
def test_a_run_that_is_written_and_read_has_the_same_weights(a_run, name, capsys):
    config, folder, params = a_run
    export.run(Request(config, folder, format=name))
    form, found = published.identify(published.read(capsys.readouterr().out.strip()))
    assert (form.name, found.step) == (name, 1234)
    jax.tree.map(
        np.testing.assert_array_equal, published.params(form, found.arrays, config), params
    )


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["safetensors", "score_sde"])
def test_a_written_file_holds_its_config(a_run, name, capsys):
    config, folder, params = a_run
    (folder / imported.CARD).write_text("the license")
    export.run(Request(config, folder, format=name))
    assert (folder / "exported" / name / "model_card.md").read_text() == "the license"
    model = experiments.load(capsys.readouterr().out.strip())
    jax.tree.map(np.testing.assert_array_equal, model.params, params)
    assert model.sde == experiments.load(folder).sde
    assert model.sampler == experiments.load(folder).sampler


def test_a_file_of_ours_keeps_the_license(a_run, capsys, monkeypatch):
    config, folder, _ = a_run
    known = {"model": "ADM", "source": "https://there", "license": "NC-1", "commercial": False}
    monkeypatch.setattr(export.folders, "origin", lambda _: {"file": "adm.pkl"} | known)
    export.run(Request(config, folder, format="safetensors"))
    record = open_(capsys.readouterr().out.strip()).record()
    assert record.items() >= known.items()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "--mode=export needs --format: one of safetensors, score_sde"),
        ("onnx", "--format 'onnx' is unknown"),
        ("dit", r"the network NCSNpp cannot be written .* --format=safetensors"),
    ],
)
def test_formats_that_cannot_be_are_refused(a_run, name, message):
    config, folder, _ = a_run
    with pytest.raises(ValueError, match=message):
        export.run(Request(config, folder, format=name))


@pytest.mark.thorough
def test_models_of_missing_values_have_one_format(tmp_path, capsys):
    """The program's own, whose first and last layers have channels for the mask."""
    config = digits.get_config("vp_score_sde")
    config.model.update(nf=8, ch_mult=(1,), attn_resolutions=(), num_res_blocks=0)
    config.data.missing = "mask"
    shapes = published.skeleton(config).shapes
    assert shapes["Conv_0", "kernel"].shape[2:] == (2, 8)
    params = weights.drawn(unflatten_dict(dict(shapes)))
    imported.write(tmp_path, 5, shapes, [params_at(params, place) for place in shapes])
    configs.save(config, tmp_path)
    with pytest.raises(ValueError, match=r"score_sde has no masks of missing values"):
        export.run(Request(config, tmp_path, format="score_sde"))
    export.run(Request(config, tmp_path, format="safetensors"))
    model = experiments.load(capsys.readouterr().out.strip())
    assert model.missing
    assert model.model.missing
    jax.tree.map(np.testing.assert_array_equal, model.params, params)
