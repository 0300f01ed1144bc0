import pickle

import jax
import numpy as np
import pytest
from closed_forms import Gaussian
from exact_models import grey_images

from experiments.data.dataset import Dataset
from experiments.data.scaling import Scaling
from experiments.evaluation import features, reference
from experiments.runs import devices, files

MESH, N = devices.make_mesh(), 160


@pytest.fixture(scope="module")
def dataset():
    x = Gaussian(0.1, 0.3).sample(jax.random.key(0), (N, 8, 8, 1))
    images = grey_images(x)
    return Dataset(images, images[:10], 256)


@pytest.fixture(scope="module")
def random_conv():
    return features.random_conv()


@pytest.mark.thorough
def test_the_reference_holds_the_moments_of_all_training_images(dataset, random_conv, tmp_path):
    """And the features of some; it is made once, in batches of 50 and one of 10."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "PAIRED", 40)
        made = reference.reference("name", dataset, random_conv, tmp_path, MESH, 50)
    rows = np.asarray(random_conv(dataset.train)[0], np.float64)
    np.testing.assert_allclose(made.moments.mean, rows.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(made.moments.covariance, np.cov(rows.T), rtol=1e-3, atol=1e-7)
    kept = rows[np.linspace(0, N - 1, 40).astype(int)]
    np.testing.assert_allclose(made.features, kept, rtol=1e-4, atol=1e-5)
    assert made.path.name.startswith("name-random_conv_v1-")


def test_a_reference_that_was_cut_off_goes_on(dataset, random_conv, tmp_path, monkeypatch):
    whole = reference.reference("name", dataset, random_conv, tmp_path / "whole", MESH, 50)
    monkeypatch.setattr(reference, "SAVE_EVERY", 1)
    save, writes = files.write_arrays, []

    def dying(path, **arrays):
        if len(writes) == 2:
            writes.append("died")
            raise KeyboardInterrupt
        writes.append(arrays["n"])
        save(path, **arrays)

    monkeypatch.setattr(files, "write_arrays", dying)
    arguments = "name", dataset, random_conv, tmp_path / "parts", MESH, 50
    with pytest.raises(KeyboardInterrupt):
        reference.reference(*arguments)
    made = reference.reference(*arguments)
    assert writes == [50, 100, "died", 150, 160]
    np.testing.assert_allclose(made.moments.scatter, whole.moments.scatter, rtol=1e-6)
    np.testing.assert_array_equal(made.features, whole.features)
    reference.reference(*arguments)
    assert len(writes) == 5


MU, SIGMA = np.zeros(3), np.eye(3)


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        (features.INCEPTION, {"mu": MU}, r"holds \['mu'\]: it must hold mu \[D\] and sigma"),
        (features.INCEPTION, {"mu": MU, "sigma": MU}, "it must hold mu"),
        ("random_conv_v1", {"mu": MU, "sigma": SIGMA}, "give the file of Inception's weights"),
    ],
)
def test_statistics_of_other_content_are_refused(tmp_path, random_conv, name, arrays, message):
    np.savez(tmp_path / "file.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        reference.statistics(tmp_path / "file.npz", random_conv.replace(name=name))


def test_statistics_are_read_from_edm_s_and_edm2_s_files(tmp_path, random_conv):
    fn, found = random_conv.replace(name=features.INCEPTION), {"mu": MU, "sigma": 2 * SIGMA}
    np.savez(tmp_path / "edm.npz", **found)
    (tmp_path / "edm2.pkl").write_bytes(pickle.dumps({"fid": found, "fd_dinov2": {}}))
    for name in ("edm.npz", "edm2.pkl"):
        moments = reference.statistics(tmp_path / name, fn)
        np.testing.assert_array_equal(moments.mean, MU)
        np.testing.assert_array_equal(moments.covariance, 2 * SIGMA)


def test_the_distances_of_gaussian_points_are_the_closed_form(tmp_path, monkeypatch):
    """Points are their own features."""
    monkeypatch.setattr(reference, "PAIRED", 500)
    assert reference.feature_function((4, 4, 5)).name == "random_conv_v1_by_channel"
    fn = reference.feature_function((2,))
    assert fn.name == "coordinates"
    data, other = Gaussian(0.0, 1.0), Gaussian(0.3, 0.7)
    points = np.asarray(data.sample(jax.random.key(0), (4000, 2)))
    truth = reference.reference(
        "points", Dataset(points, points[:9], None), fn, tmp_path, MESH, 500
    )
    samples = np.asarray(other.sample(jax.random.key(1), (4000, 2)))

    def draw(first):
        return samples[first : first + 512]

    scaling = Scaling(None)
    moments, values = reference.sampled_features(scaling, fn, draw, 512, 3900, MESH)
    assert values["features"].shape == (3900, 2)
    assert moments.n == 3900
    np.testing.assert_array_equal(values["features"], samples[:3900])
    found = reference.distances(moments, values["features"], truth, seed=0)
    assert found.frechet == pytest.approx(2 * 0.3**2 + 2 * 0.3**2, rel=0.1)
    assert found.subset == 250
    assert found.kernel > 4 * found.kernel_error > 0


def test_samples_that_are_not_finite_are_never_kept(random_conv):
    kept = []

    def part(name, compute):
        result = compute()
        kept.append(name)
        return result

    def broken(first):
        return np.full((4, 8, 8, 1), np.nan)

    with pytest.raises(FloatingPointError, match="samples are not finite"):
        reference.sampled_features(Scaling(256), random_conv, broken, 4, 8, MESH, part)
    assert kept == []
