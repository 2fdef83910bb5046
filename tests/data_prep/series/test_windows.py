"""Tests of data_prep/series/windows.py: one window per series, for all types of values and ways of reading."""

import numpy as np
import pytest

from data_prep.series.windows import SeriesHistogram, series_window, to_grey


def slow_window(images: list[np.ndarray]) -> tuple[float, float]:
    """Compute the window from all values at once, in float64: integers directly, others from 65,536 bins."""
    values = np.concatenate([image.ravel() for image in images])
    integers = all(image.dtype.kind in "iu" for image in images) and float(values.max()) - float(values.min()) < 65536
    smallest, step = float(values.min()), 1.0
    if not integers:
        step = max(float(values.max()) - smallest, 1e-6) / 65535
        values = np.concatenate([((image - smallest) / step).astype(np.int64).ravel() for image in images])
    low, high = np.percentile(values, [0.5, 99.5], method="inverted_cdf")
    return (float(low), float(high)) if integers else (smallest + step * low, smallest + step * high)


@pytest.mark.parametrize(
    "dtypes",
    [
        (np.uint8,),
        (np.int8,),
        (np.uint16,),
        (np.int16,),
        (np.uint32,),
        (np.int32,),
        (np.float32,),
        (np.uint16, np.int16),
        (np.uint16, np.int32),
        (np.int16, np.float32),
        (np.uint16, np.float64),
    ],
)
@pytest.mark.parametrize("width", [60, 30_000, 70_000, 4_000_000])
def test_the_window_equals_that_of_all_values_at_once(dtypes, width: int) -> None:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(width)
    images = []
    for index in range(4):
        dtype = np.dtype(dtypes[index % len(dtypes)])
        limits = np.iinfo(dtype) if dtype.kind in "iu" else None
        low, high = -width // 2, width // 2
        if limits is not None:
            low, high = max(low, limits.min), min(high, limits.max)
        values = random.normal((low + high) / 2, (high - low) / 4, (40, 30)).clip(low, high)
        images.append(values.astype(dtype))
    assert series_window(images) == slow_window(images)


def test_images_are_read_again_only_if_necessary() -> None:
    types_read_again = []
    for dtype in (np.uint16, np.int16, np.float32):
        image = np.arange(5000, dtype=dtype).reshape(50, 100)
        histogram = SeriesHistogram()
        assert histogram.add(image) == (0, 4999)

        def reread(image=image):  # type: ignore[no-untyped-def]
            types_read_again.append(image.dtype)
            return [image]

        assert histogram.window(reread) == slow_window([image])
    assert types_read_again == [np.dtype(np.float32)]


def test_large_images_are_mapped_like_small_ones() -> None:
    image = np.random.default_rng(3).integers(0, 4096, (1100, 1000)).astype(np.uint16)
    grey = to_grey(image, (41.0, 3900.0))
    exact = np.clip(np.rint((image.astype(np.float64) - 41) * (255 / (3900 - 41))), 0, 255)
    assert np.abs(grey - exact).max() <= 1 and np.mean(grey != exact) < 1e-4
    np.testing.assert_array_equal(grey[1050:], to_grey(image[1050:], (41.0, 3900.0)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_the_window_is_the_percentiles_of_the_series(dtype) -> None:  # type: ignore[no-untyped-def]
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


def test_a_constant_series_is_black_and_no_error() -> None:
    image = np.full((5, 5), 7, dtype=np.uint16)
    assert not to_grey(image, series_window([image])).any()
