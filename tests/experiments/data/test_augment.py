import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import augment
from experiments.data.augment import Transform

HEIGHT, WIDTH = 24, 32
COVARIANCE = np.array([[4.5, 1.5], [1.5, 3.5]])
NOTHING = Transform(*jnp.zeros(8))
IMAGE = jax.random.normal(jax.random.key(0), (HEIGHT, WIDTH, 2))


@jax.jit
def transformed(transform, image=IMAGE):
    return augment.transformed(image, transform)


def points(origin):
    """The pixels, right of and above a point, which is given from the image's centre."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x - (WIDTH - 1) / 2, (HEIGHT - 1) / 2 - y], axis=-1) - origin


def bump(mean, covariance):
    """A Gaussian of height 1."""
    squares = np.einsum("yxi,ij,yxj->yx", points(mean), np.linalg.inv(covariance), points(mean))
    return np.exp(-0.5 * squares)[..., None]


def rotation(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def test_doing_nothing_gives_the_image_back():
    np.testing.assert_allclose(transformed(NOTHING), IMAGE, atol=2e-5)


def test_flips_mirror_the_image():
    flipped = [
        transformed(NOTHING._replace(**{axis: jnp.ones(())})) for axis in ("flip_x", "flip_y")
    ]
    np.testing.assert_allclose(flipped[0], IMAGE[:, ::-1], atol=2e-5)
    np.testing.assert_allclose(flipped[1], IMAGE[::-1], atol=2e-5)


def test_shifts_bring_in_the_mirrored_image():
    """By 8 pixels to the right, a quarter of the width, and 3 upwards, an eighth of the height."""
    shifted = transformed(NOTHING._replace(shift_x=jnp.array(2.0), shift_y=jnp.array(-1.0)))
    mirrored = np.pad(IMAGE, ((0, 3), (8, 0), (0, 0)), mode="reflect")[3:, :WIDTH]
    np.testing.assert_allclose(shifted, mirrored, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"scale": 1.5},
        {"scale": -2.0},
        {"angle": 0.6},
        {"stretch": 1.5},
        {"stretch": 1.5, "direction": 1.0},
        {"shift_x": 0.8, "shift_y": 0.5},
        {"flip_y": 1.0, "scale": 0.5, "angle": -2.0, "stretch": -1.0, "direction": 2.0},
        {"flip_x": 1.0, "angle": 1.0, "stretch": 1.0, "direction": 0.5, "shift_x": 0.7},
    ],
)
def test_a_bump_moves_as_the_transformation_says(change):
    """Near the centre, where no mirror image of it comes in."""
    mean = np.array([2.5, -1.5])
    do = NOTHING._replace(**{name: jnp.array(value) for name, value in change.items()})
    flips = np.diag([1 - 2.0 * do.flip_x, 1 - 2.0 * do.flip_y])
    turn = rotation(do.angle) * 2 ** (0.2 * do.scale)
    axes, length = rotation(do.direction), 2 ** (0.2 * do.stretch)
    matrix = axes @ np.diag([length, 1 / length]) @ axes.T @ turn @ flips
    shift = 0.125 * np.array([WIDTH * do.shift_x, -HEIGHT * do.shift_y])
    before = jnp.asarray(bump(mean, COVARIANCE), jnp.float32)
    after = bump(matrix @ mean + shift, matrix @ COVARIANCE @ matrix.T)
    near = np.linalg.norm(points(shift), axis=-1) < 10
    np.testing.assert_allclose(transformed(do, before)[near], after[near], atol=0.025)


def test_labels_are_the_published_ones():
    transform = Transform(*jnp.array([1.0, 0.0, 0.5, 0.3, -2.0, 0.7, 1.1, -0.4]))
    expected = [1, 0, 0.5, np.cos(0.3) - 1, np.sin(0.3), -2 * np.cos(0.7), -2 * np.sin(0.7)]
    np.testing.assert_allclose(augment.labels(transform), [*expected, 1.1, -0.4], rtol=1e-6)
    np.testing.assert_array_equal(augment.labels(NOTHING), np.zeros(augment.N_LABELS))


def test_draws_have_their_probabilities_and_spreads():
    n, p = 20_000, 0.3
    keys = jax.random.split(jax.random.key(0), n)
    draw = jax.jit(jax.vmap(lambda key: augment.draw(key, p)))
    drawn = {name: np.asarray(values) for name, values in draw(keys)._asdict().items()}
    shares = {name: np.mean(values != 0) for name, values in drawn.items()}
    once = dict.fromkeys(("scale", "angle", "stretch", "shift_x", "shift_y"), p)
    expected = {"flip_x": 0.5, "flip_y": p / 2, "direction": 0.5, **once}
    assert shares == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(n))
    for name in ("scale", "stretch", "shift_x", "shift_y"):
        assert drawn[name][drawn[name] != 0].std() == pytest.approx(1, abs=0.04)
    for name in ("angle", "direction"):
        values = drawn[name][drawn[name] != 0]
        assert np.quantile(values / np.pi, [0, 0.25, 0.5, 0.75, 1]) == pytest.approx(
            [-1, -0.5, 0, 0.5, 1], abs=0.05
        )


@pytest.mark.thorough
def test_a_sample_has_its_augmentation_in_any_batch():
    """And its label says which: with p = 0, a flip to the left or right."""
    x = jax.random.normal(jax.random.key(1), (6, HEIGHT, WIDTH, 2))
    run = jax.jit(augment.augment)
    whole, labels = run(jax.random.key(0), x, 0.5, 0)
    later, later_labels = run(jax.random.key(0), jnp.roll(x, -2, axis=0), 0.5, 2)
    np.testing.assert_allclose(later[:4], whole[2:], atol=1e-5)
    np.testing.assert_allclose(later_labels[:4], labels[2:], atol=1e-6)
    flipped, labels = run(jax.random.key(0), x, 0.0, 0)
    is_flipped = np.asarray(labels[:, 0], bool)
    assert 0 < is_flipped.sum() < 6
    assert not labels[:, 1:].any()
    expected = np.where(is_flipped[:, None, None, None], x[:, :, ::-1], x)
    np.testing.assert_allclose(flipped, expected, atol=2e-5)
