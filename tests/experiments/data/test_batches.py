import jax
import numpy as np
import pytest
from PIL import Image

from experiments.data import batches
from experiments.data.dataset import DataSpec
from experiments.data.lazy_arrays import LazyArray, Part, UnreadableError
from experiments.data.lazy_images import LazyImages
from experiments.data.load import load
from experiments.runs import devices

MESH = devices.make_mesh()
ROWS, COLUMNS = devices.batch_sharding(MESH), devices.batch_sharding(MESH, axis=1)


def test_batches_visit_every_sample_once_an_epoch_and_start_anywhere():
    values = np.arange(60)
    stream = batches.batches(values, seed=3, shape=(20,), start=0, placement=ROWS)
    epochs = [np.concatenate([next(stream) for _ in range(3)]) for _ in range(2)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), values)
    assert (epochs[0] != epochs[1]).any()
    later = batches.batches(values, seed=3, shape=(20,), start=4, placement=ROWS)
    np.testing.assert_array_equal(next(later), epochs[1][20:40])
    other = batches.batches(values, seed=4, shape=(20,), start=0, placement=ROWS)
    assert (next(other) != epochs[0][:20]).any()


def test_batches_of_several_sequences_keep_them_together():
    images, labels = np.arange(60).reshape(60, 1), 2 * np.arange(60)
    plain = batches.batches(images, seed=3, shape=(20,), start=2, placement=ROWS)
    both = batches.batches((images, labels), seed=3, shape=(20,), start=2, placement=ROWS)
    unlabelled = batches.batches((images, None), seed=3, shape=(20,), start=2, placement=ROWS)
    for _ in range(4):
        batch, classes = next(both)
        np.testing.assert_array_equal(classes, 2 * batch[:, 0])
        np.testing.assert_array_equal(batch, next(plain))
        np.testing.assert_array_equal(batch, next(unlabelled)[0])
    with pytest.raises(ValueError, match=r"one length, these have \[59, 60\]"):
        batches.batches((images, labels[1:]), seed=3, shape=(20,), start=0, placement=ROWS)


def test_resident_values_are_the_same_batches():
    images = np.random.RandomState(0).randint(256, size=(60, 8, 8, 1)).astype(np.uint8)
    values = images, np.arange(60, dtype=np.int32), None
    streamed = batches.batches(values, seed=3, shape=(2, 10), start=2, placement=COLUMNS)
    size = images.nbytes + 60 * 4
    resident, order = batches.resident(MESH, values, size), np.arange(60, dtype=np.int32)
    indices = batches.batches(order, seed=3, shape=(2, 10), start=2, placement=COLUMNS)
    fetch = jax.jit(batches.fetch)
    for _ in range(4):
        batch = next(streamed)
        same = fetch(resident, next(indices))
        assert [leaf.dtype for leaf in same[:2]] == [np.uint8, np.int32]
        jax.tree.map(np.testing.assert_array_equal, same, batch)
        jax.tree.map(np.testing.assert_array_equal, fetch(None, batch), batch)


def test_values_that_are_too_large_or_not_decoded_are_not_resident():
    images = np.zeros((10, 8, 8, 1), np.uint8)
    lazy = LazyImages("none", np.arange(10), lambda _: None, (8, 8, 1))  # pyright: ignore
    assert batches.resident(MESH, (images,), images.nbytes - 1) is None
    assert batches.resident(MESH, (images,), 0) is None
    assert batches.resident(MESH, (lazy, np.arange(10)), 2**30) is None


def test_a_folder_gives_the_batches_of_the_array(tmp_path):
    array = np.random.RandomState(0).randint(256, size=(12, 8, 8, 1)).astype(np.uint8)
    for i, image in enumerate(array):
        path = tmp_path / ("test" if i > 9 else "train") / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    spec = DataSpec("folder", (8, 8, 1), str(tmp_path), str(tmp_path / ".cache"))
    lazy = batches.batches(load(spec).train, seed=3, shape=(4,), start=1, placement=ROWS)
    whole = batches.batches(array[:10], seed=3, shape=(4,), start=1, placement=ROWS)
    for _ in range(5):
        np.testing.assert_array_equal(next(lazy), next(whole))

    Image.new("L", (8, 9)).save(tmp_path / "test/11.png")
    with pytest.raises(ValueError, match=r"test/11\.png cannot be used: it has 8 x 9 pixels"):
        load(spec)


class Files:
    """A sequence of numbers, some of whose files are gone."""

    def __init__(self, n, gone):
        self.values, self.gone = np.arange(n), gone
        self.shape = (n,)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        if lost := self.gone & {*index.tolist()}:
            raise UnreadableError(f"file {min(lost)} is gone", lost)
        return self.values[index]


def test_others_take_the_places_of_samples_that_vanish(caplog):
    """With their own labels; the other samples are those of the same batches."""
    files, labels = Files(60, set()), 2 * np.arange(60)
    about = {"seed": 3, "shape": (20,), "start": 0, "placement": ROWS}
    plain = batches.batches((files, labels), **about)
    expected = [np.asarray(next(plain)[0]) for _ in range(3)]
    files.gone = {7, 8, 59}
    stream = batches.batches((files, labels), **about, max_unreadable=0.05)
    for batch in expected:
        found, classes = map(np.asarray, next(stream))
        np.testing.assert_array_equal(classes, 2 * found)
        places = {7: 9, 8: 9, 59: 0}
        np.testing.assert_array_equal(found, [places.get(row, row) for row in batch.tolist()])
    assert "3 of 60 training samples can no longer be read, others take" in caplog.text


@pytest.mark.parametrize(
    ("gone", "share", "message"),
    [
        ({7}, 0.0, "file 7 is gone; 1 of 60 .*: restore the files, or set .*max_unreadable=0.017"),
        ({*range(7)}, 0.05, r"of 60 training samples .*max_unreadable=0\.\d+ to go on"),
        ({*range(60)}, 0.9, "is gone; 60 of 60 training samples can no longer be read: restore"),
    ],
    ids=["none allowed", "too many", "all"],
)
def test_too_many_vanished_samples_end_the_training(gone, share, message):
    files = Files(60, gone)
    about = {"seed": 3, "shape": (60,), "start": 0, "placement": ROWS}
    stream = batches.batches(files, **about, max_unreadable=share)
    with pytest.raises(ValueError, match=message):
        next(stream)


@pytest.mark.thorough
def test_images_and_arrays_say_which_samples_are_gone(tmp_path):
    """By their places in the sequence that is asked."""
    for k in range(8):
        Image.fromarray(np.full((4, 4), 30 * k, np.uint8)).save(tmp_path / f"{k} 数.png")
        np.save(tmp_path / f"{k} 数.npy", np.full((2, 4, 4, 1), 30 * k, np.uint8))
    images = load(DataSpec("folder", (4, 4, 1), str(tmp_path), test_fraction=0.25)).train
    parts = [
        Part(str(path), 2, lambda rows, path=path: np.load(path)[rows])
        for path in sorted(tmp_path.glob("*.npy"))
    ]
    arrays = LazyArray(tuple(parts), (4, 4, 1), np.dtype(np.uint8)).take(np.arange(15, -1, -1))
    for name in (images.keys[2], images.keys[4]):
        (tmp_path / name).unlink()
    with pytest.raises(UnreadableError, match="cannot be used") as error:
        images[np.array([0, 4, 2, 5])]
    assert error.value.rows == {2, 4}
    np.testing.assert_array_equal(images[np.array([5, 0])][:, 0, 0, 0] % 30, 0)
    (tmp_path / "3 数.npy").unlink()
    with pytest.raises(UnreadableError, match=r"3 数.npy cannot be read") as error:
        arrays[np.array([0, 9, 8, 1])]
    assert error.value.rows == {8, 9}
