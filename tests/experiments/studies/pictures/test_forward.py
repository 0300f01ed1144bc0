import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import digits, points, series
from experiments.commands.request import Request
from experiments.studies.pictures import families, forward
from sde_lib import VE, VP, GaussianMixture


@pytest.mark.thorough
def test_the_marginal_of_a_gaussian_has_its_closed_form():
    """Data N(0, 2^2 I) in the plane under VP at t = 0.3."""
    sde, std, t = VP(), 2.0, 0.3
    alpha = math.exp(-0.25 * t**2 * (20 - 0.1) - 0.5 * t * 0.1)
    variance = alpha**2 * std**2 + 1 - alpha**2
    found = forward.marginal("vpsde", sde, t, std, GaussianMixture((1.0,), ((0.0, 0.0),), std))
    assert found.alpha == pytest.approx(alpha, rel=1e-5)
    assert found.correlation == pytest.approx(alpha * std / math.sqrt(variance), rel=1e-5)
    assert found.kl == pytest.approx(variance - 1 - math.log(variance), rel=1e-4)


def test_the_divergence_of_a_shifted_gaussian_is_exact():
    """KL(N(m, s^2 I) || N(0, r^2 I)) in two dimensions."""
    mixture = GaussianMixture((1.0,), ((3.0, -4.0),), 0.5)
    expected = 2 * math.log(2 / 0.5) + (2 * 0.25 + 25) / (2 * 4) - 1
    assert forward.divergence(mixture, 2.0) == pytest.approx(expected, rel=1e-5)


@pytest.mark.thorough
def test_densities_are_those_of_the_points():
    """The histogram of samples and the exact density have the same mass in each quarter."""
    mixture = GaussianMixture((0.2, 0.8), ((-1.5, 0.0), (1.5, 0.0)), 0.3)
    x0 = np.random.RandomState(0).randn(20_000, 2) * 0.3
    x0[:, 0] += np.where(np.arange(20_000) % 5 == 0, -1.5, 1.5)
    std = float(x0.std())
    for known in (mixture, None):
        first, *_, last = forward.densities(VP(), x0, std, known, 3)
        side = len(first)
        left = first[:, : side // 2].sum() / first.sum()
        assert left == pytest.approx(0.2, abs=0.01)
        assert last[:, : side // 2].sum() / last.sum() == pytest.approx(0.5, abs=0.02)


def test_images_are_noised_alike_in_all_rows():
    """x_t in the scale of the data: VE at sigma = 50 shows the noise alone."""
    x0 = jnp.asarray(np.random.RandomState(0).randn(3, 4, 4, 1), jnp.float32)
    rows = forward.noised({"vesde": VE(0.01, 50.0), "vpsde": VP()}, x0, float(x0.std()), 4, seed=0)
    for frames in rows.values():
        frames = frames.reshape(3, 4, -1)
        np.testing.assert_allclose(frames[:, 0], x0.reshape(3, -1), atol=0.05)
        assert frames.std() == pytest.approx(float(x0.std()), rel=0.1)
    last = [frames.reshape(3, 4, -1)[:, -1] for frames in rows.values()]
    np.testing.assert_allclose(last[0], last[1], atol=0.05)


@pytest.mark.thorough
@pytest.mark.parametrize(("module", "variant"), [(points, "mixture"), (digits, "vp")])
def test_a_config_alone_gives_a_table_and_a_picture(module, variant, tmp_path, capsys):
    config = module.get_config(variant)
    config.study.name = "forward"
    config.study.forward.update(sdes=("vpsde", "flow"), n_times=3)
    forward.run(Request(config, tmp_path))
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "forward_seed42.png")
    rows = [json.loads(row) for row in (tmp_path / "forward_seed42.jsonl").open()]
    assert [row["sde"] for row in rows] == ["vpsde"] * 3 + ["flow"] * 3
    assert all((row["kl"] is None) == (module is digits) for row in rows)
    assert np.asarray(Image.open(tmp_path / "forward_seed42.png").convert("L")).std() > 1


def test_impossible_options_are_refused(tmp_path):
    config = points.get_config("mixture")
    for values, message in {
        ("vpsdd",): "did you mean 'vpsde'",
        ("cld",): "sdes 'cld' is unknown",
        (): "sdes is empty",
    }.items():
        config.study.forward.sdes = values
        with pytest.raises(ValueError, match=message):
            forward.run(Request(config, tmp_path))
    with pytest.raises(ValueError, match="shows images and points in the plane"):
        forward.run(Request(series.get_config(), tmp_path))


def test_the_config_s_own_sde_has_its_numbers():
    config = points.get_config("mixture")
    config.model.beta_max = 10.0
    made = families.sdes(config, "config.study.forward.sdes", ("vpsde", "subvpsde"))
    assert made["vpsde"] == VP(beta_min=config.model.beta_min or 0.1, beta_max=10.0)
    assert made["subvpsde"].beta_max == 20.0
