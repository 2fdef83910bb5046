"""Tests of data_prep/dicom/header_values.py: a patient's name in any header element never appears in a message."""

import doctest
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from data_prep.dicom import header_values
from data_prep.dicom.dicom_file import HEADER_KEYWORDS
from data_prep.studies.studies import StudyFolder, read_study
from tests.dicom_files import frame, write_enhanced, write_slice

SECRET = b"Secret^Name 1970"
PIXELS = np.arange(48 * 40, dtype=np.uint16).reshape(48, 40)


def test_examples() -> None:
    assert doctest.testmod(header_values) == (0, 2)


def messages_of(root: Path) -> list[str]:
    _, faults = read_study(StudyFolder(9, root, {1: root / "1"}))
    return [fault.message for fault in faults]


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
@pytest.mark.filterwarnings("ignore")
def test_a_name_in_any_element_is_in_no_message(tmp_path: Path, syntax, many: bool) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "1" / "image.dcm"
    path.parent.mkdir()
    with_messages = 0
    for keyword in HEADER_KEYWORDS:
        number = Tag(tag_for_keyword(keyword))
        for representation in {dictionary_VR(number), "LO", "PN", "DS", "IS"} - {"US or SS"}:
            if many:
                write_enhanced(path, np.stack([PIXELS] * 2), None, syntax=syntax)
            else:
                write_slice(path, PIXELS, frame((0, 0, 0), shape=PIXELS.shape), syntax=syntax)
            dataset = dcmread(path)
            dataset[number] = RawDataElement(number, representation, len(SECRET), SECRET, 0, False, True)
            dataset.save_as(path)
            assert SECRET in path.read_bytes()
            messages = messages_of(tmp_path)
            with_messages += bool(messages)
            assert not [message for message in messages if "Secret" in message or "1970" in message], keyword
    assert with_messages > len(HEADER_KEYWORDS)


def test_a_name_as_transfer_syntax_is_in_no_message(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "1" / "1.dcm", PIXELS)
    content = path.read_bytes()
    syntax = b"1.2.840.10008.1.2.1\0"
    path.write_bytes(content.replace(syntax, b"Secret^Name".ljust(len(syntax)), 1))
    assert [message for message in messages_of(tmp_path) if "transfer syntax" in message]
    assert "Secret" not in "".join(messages_of(tmp_path))
