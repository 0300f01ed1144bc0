import json

import numpy as np
import pytest

from configs import points
from experiments.commands.request import Request
from experiments.studies.pictures import families, schedules
from sde_lib import VP, LinearFlow, chains


def test_a_chain_has_the_products_of_its_betas():
    betas = chains.linear(50)
    found = schedules.of_betas(betas)
    np.testing.assert_allclose(found.alpha2, np.cumprod(1 - betas), rtol=1e-12)
    np.testing.assert_allclose(found.log_snr, np.log(found.alpha2 / (1 - found.alpha2)), rtol=1e-9)


def test_vp_has_its_linear_beta_and_the_chain_of_ddpm_approaches_it():
    """beta(t) = 0.1 + 19.9 t; 1000 beta_i has the same ends (Song et al. 2021, Appendix C)."""
    found = schedules.of_sde(VP())
    np.testing.assert_allclose(found.beta, 0.1 + 19.9 * found.u, rtol=1e-4)
    chain = schedules.of_betas(chains.linear(1000))
    alpha2 = np.interp(chain.u, found.u, found.alpha2)
    np.testing.assert_allclose(alpha2, chain.alpha2, atol=2e-3)


def test_the_places_of_linear_flow_are_exact():
    """log-SNR = 2 log((1 - t) / t): equal at 1/2, and within 4 from 1 / (1 + e^2) on."""
    found = schedules.result("flow", schedules.of_sde(LinearFlow()))
    assert found.equal_at == pytest.approx(0.5, abs=2e-3)
    assert found.informative == pytest.approx(np.tanh(1), abs=2e-3)


@pytest.mark.thorough
def test_all_families_are_in_the_table(tmp_path, capsys):
    config = points.get_config("mixture")
    config.study.schedules.n_levels = 20
    schedules.run(Request(config, tmp_path))
    assert (tmp_path / "schedules_seed42.png").exists()
    rows = [json.loads(row) for row in (tmp_path / "schedules_seed42.jsonl").open()]
    names = [row["schedule"] for row in rows]
    assert set(families.NAMES) | {"cosine betas", "laplace betas"} <= set(names)
    assert len(names) == len(set(names))
    assert all(row["first_log_snr"] > row["last_log_snr"] for row in rows)
