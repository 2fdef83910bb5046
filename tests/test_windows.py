"""data_prep/windows.py: one window for a series, whatever its numbers are and however it is read."""

import numpy as np
import pytest

from data_prep.windows import series_window, to_grey


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_the_window_is_the_series_percentiles(dtype) -> None:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(0)
    low = -500 if np.dtype(dtype).kind in "if" else 0
    images = [random.integers(low, 250, size=(50, 40)).astype(dtype) for _ in range(3)]
    expected = np.percentile(np.stack(images), [0.5, 99.5], method="inverted_cdf")
    np.testing.assert_allclose(series_window(images), expected, atol=0.02)


def test_values_beyond_32_signed_bits_have_a_window() -> None:
    image = np.uint32(4_000_000_000) + np.arange(1000, dtype=np.uint32).reshape(20, 50)
    assert series_window([image]) == (4_000_000_004.0, 4_000_000_994.0)


def test_grey_is_linear_within_the_window_and_clipped_outside() -> None:
    image = np.array([[-5, 0, 50, 100, 900]], dtype=np.int16)
    np.testing.assert_array_equal(to_grey(image, (0.0, 100.0)), [[0, 0, 128, 255, 255]])


def test_a_constant_series_is_black_not_an_error() -> None:
    image = np.full((5, 5), 7, dtype=np.uint16)
    assert not to_grey(image, series_window([image])).any()
