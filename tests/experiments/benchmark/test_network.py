import jax.numpy as jnp
import pytest

from experiments.benchmark import network
from experiments.benchmark.presets import PRESETS


def test_a_multiply_add_counts_as_two_flops():
    matrix, vectors = jnp.ones((3, 5)), jnp.ones((5, 7))
    assert network.flops(jnp.matmul, matrix, vectors) == 2 * 3 * 5 * 7


def test_peaks_are_of_the_dtype_and_size_asked_for():
    preset = PRESETS["cpu"]
    for _, arguments in network.peaks(preset, "bfloat16").values():
        assert {argument.dtype for argument in arguments} == {jnp.dtype("bfloat16")}
    n, side, channels = preset.convolution
    # The padding's zeros are not counted: of 3 rows, the first and last lack one.
    expected = 2 * n * (3 * side - 2) ** 2 * channels**2
    convolve, arguments = network.peaks(preset, "float32")["convolution"]
    assert network.flops(convolve, *arguments) == pytest.approx(expected)
