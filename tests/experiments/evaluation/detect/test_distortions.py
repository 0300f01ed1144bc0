import numpy as np
import pytest

from experiments.evaluation.detect.distortions import DISTORTIONS, distorted


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", DISTORTIONS)
def test_images_keep_their_shape_and_flat_ones_their_values(name, channels):
    flat = np.full((3, 9, 12, channels), 77, np.uint8)
    np.testing.assert_allclose(distorted(name, flat).astype(int), flat, atol=1)
    noise = np.random.RandomState(0).randint(0, 256, (3, 9, 12, channels)).astype(np.uint8)
    changed = distorted(name, noise)
    assert (changed.shape, changed.dtype) == (noise.shape, np.uint8)
    assert np.array_equal(changed, noise) == (name == "none")
    if name in ("resize", "blur"):
        assert changed.std() < 0.8 * noise.std()
