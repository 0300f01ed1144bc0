import math

import numpy as np
import pytest
from flows import denoised, flow, order, run
from scipy.integrate import quad

import samplers

GRID = (10.0, 4.0, 1.0, 0.3)


def paper_weights(nodes, end, variant):
    """Zhao et al. 2023: B(h) a_m / r_m of the differences, where R_p(h) a_p B(h) = psi_p(h)."""
    h = end - nodes[0]
    b = h if variant == "bh1" else -math.expm1(-h)
    r = (np.array(nodes[1:]) - nodes[0]) / h
    powers = np.arange(1, len(r) + 1)
    psi = [h * quad(lambda x, k=k: math.exp((x - 1) * h) * x**k, 0, 1)[0] for k in powers]
    a = [0.5] if len(r) == 1 else np.linalg.solve(r ** (powers[:, None] - 1), np.array(psi) / b)
    weights = b * np.array(a) / r
    return np.array([-math.expm1(-h) - weights.sum(), *weights])


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("older", [(), (-0.5,), (0.8,), (-0.5, 0.8), (-0.5, -1.4, 0.8)])
def test_weights_solve_the_papers_equations(older, variant):
    nodes = np.array([0.1, *older])
    weights = samplers.UniPC(variant=variant)._weights(nodes, 0.8)
    np.testing.assert_allclose(weights, paper_weights(nodes, 0.8, variant), rtol=1e-9)


@pytest.mark.parametrize(("p", "variant", "n"), [(1, "bh2", 32), (2, "bh1", 16), (3, "bh2", 16)])
def test_it_converges_at_the_order_of_its_corrector(p, variant, n):
    assert order("unipc", n, order=p, variant=variant) > p + 1 - 0.2


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_it_is_its_algorithm(variant):
    """UniPC-2 at alpha = 1: a state's evaluation corrects it, and predicts the next."""
    samples = run(samplers.UniPC(4, GRID, order=2, variant=variant))
    assert samples.nfe == 4
    y, s, nodes, data = flow()[0], -np.log(GRID), [], []
    predicted = y
    for k in range(3):
        evaluated = denoised(predicted, GRID[k])
        if k > 0:
            weights = paper_weights([*nodes, s[k]], s[k], variant)
            known = zip(weights, [*data, evaluated], strict=True)
            y = GRID[k] / GRID[k - 1] * y + sum(w * d for w, d in known)
        nodes, data = [s[k], *nodes][:2], [evaluated, *data][:2]
        known = zip(paper_weights(nodes, s[k + 1], variant), data, strict=True)
        predicted = GRID[k + 1] / GRID[k] * y + sum(w * d for w, d in known)
    np.testing.assert_allclose(samples.x, denoised(predicted, GRID[3]), atol=1e-5)


def test_unip_2_is_dpmpp_2m():
    """UniP-2 with B(h) = e^h - 1 is DPM-Solver++(2M), as the paper remarks."""
    now, then = np.array(GRID[:-1]), np.array(GRID[1:])
    _, predict = samplers.UniPC(order=2, variant="bh2").plan(now, then).coefficients
    expected = samplers.DPMpp2M().plan(now, then).coefficients
    np.testing.assert_allclose(predict[:, :3], expected, rtol=1e-12)


def test_options_are_checked():
    with pytest.raises(ValueError, match="order is 4: it must be one of 1, 2, 3"):
        samplers.UniPC(order=4)
    with pytest.raises(ValueError, match="n_steps is 2: it must be at least 4"):
        samplers.UniPC(2, order=3)
    with pytest.raises(ValueError, match="variant 'bh3' is unknown: did you mean 'bh"):
        samplers.UniPC(variant="bh3")  # pyright: ignore[reportArgumentType]
