import numpy as np
import pytest

from models import text


def test_bytes_are_counted_from_1():
    np.testing.assert_array_equal(
        text.encode(["a", "", "é"], 3), [[98, 0, 0], [0] * 3, [196, 170, 0]]
    )


def test_texts_that_are_too_long_are_refused():
    with pytest.raises(ValueError, match="'fox' has 3 bytes, and the model reads 2"):
        text.encode(["fox"], 2)
