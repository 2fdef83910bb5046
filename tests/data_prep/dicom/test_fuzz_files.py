"""Fuzz tests: a file with changed or missing bytes gives a fault or an image as the header describes, quickly.

For each of five files the same `LUMBAR_FUZZ` damaged versions are drawn; the default of 500 is that of the ordinary
suite. Run `LUMBAR_FUZZ=5000 pytest tests/data_prep/dicom/test_fuzz_files.py` after changes to data_prep/dicom and for
new versions of decoders. A decoder that crashes the process, or hangs, ends the test run.
"""

import faulthandler
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from data_prep.dicom.pixels import open_images
from data_prep.faults import FaultKind, FileFault
from tests.dicom_files import deflated, frame, write_slice

EXAMPLES = int(os.environ.get("LUMBAR_FUZZ", "500"))
#: A damaged file takes some milliseconds; the limit leaves room for a busy machine.
LIMIT_SECONDS = 5.0
HANG_SECONDS = 60.0

_random = np.random.default_rng(0)
IMAGE = (np.add.outer(np.arange(48) * 9, np.arange(40) * 5) + _random.integers(0, 40, (48, 40))).astype(np.uint16)


@st.composite
def damages(draw: st.DrawFn) -> list[tuple[float, int, int]]:
    """Draw one to five changes: (position in the file from 0 to 1, number of bytes to delete there, byte to write).

    Half of them fall into the header, where most can go wrong; deleting very many bytes truncates the file.
    """
    position = st.one_of(st.floats(0, 1, exclude_max=True), st.floats(0, 0.2))
    deleted = st.sampled_from([0, 0, 0, 0, 1, 2, 7, 10**6])
    damage: list[tuple[float, int, int]] = draw(
        st.lists(st.tuples(position, deleted, st.integers(0, 255)), min_size=1, max_size=5)
    )
    return damage


def apply(original: bytes, damage: list[tuple[float, int, int]]) -> bytes:
    content = bytearray(original)
    for position, deleted, written in damage:
        offset = int(position * len(content))
        if deleted:
            del content[offset : offset + deleted]
        elif content:
            content[offset] = written
    return bytes(content)


def files(folder: Path) -> dict[str, Path]:
    geometry = frame((0, 0, 0), shape=IMAGE.shape)
    syntaxes = {"raw": ExplicitVRLittleEndian, "rle": RLELossless, "jpeg2000": JPEG2000Lossless, "jls": JPEGLSLossless}
    bits = {"BitsStored": 12, "HighBit": 11}
    written = {
        name: write_slice(folder / f"{name}.dcm", IMAGE, geometry, uid, **bits) for name, uid in syntaxes.items()
    }
    return written | {"deflated": deflated(write_slice(folder / "deflated.dcm", IMAGE, geometry))}


@pytest.mark.parametrize("name", ["raw", "rle", "jpeg2000", "jls", "deflated"])
def test_a_damaged_file_gives_a_fault_or_the_described_image(name: str, tmp_path: Path) -> None:
    original = files(tmp_path)[name].read_bytes()
    outcomes: list[FaultKind | None] = []

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(damages())
    def damaged(damage: list[tuple[float, int, int]]) -> None:
        path = tmp_path / "damaged.dcm"
        path.write_bytes(apply(original, damage))
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        started = time.process_time()
        outcomes.append(outcome(path))
        assert time.process_time() - started < LIMIT_SECONDS

    try:
        damaged()
    finally:
        faulthandler.cancel_dump_traceback_later()
    # The test is worth something only if both images and several kinds of faults occurred.
    assert None in outcomes and len(set(outcomes)) > 3


def outcome(path: Path) -> FaultKind | None:
    """Return the kind of the fault, or None if all images are as the header describes; fail for anything else."""
    try:
        with open_images(path) as images:
            for number, header in enumerate(images.headers):
                signal = images.signal(number)
                description = images.decoder.description  # corrected by the pixels, if they contradict the header
                assert signal.shape == (description.rows, description.columns)
                assert signal.dtype.isnative and np.isfinite(signal).all()
                if images.slope(number) == 1 and not header.get("RescaleIntercept"):
                    assert np.ptp(signal.astype(np.int64)) < 1 << description.bits_stored
    except FileFault as fault:
        assert fault.message and "\n" not in fault.message
        return fault.kind
    return None
