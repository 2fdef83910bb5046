"""Headers that do not follow the standard but have one possible meaning are read as it, with a note."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from data_prep.dicom.headers import Header, read_header
from data_prep.dicom.pixels import open_images, read_image
from data_prep.faults import FaultKind, FileFault, Repair
from data_prep.studies.studies import StudyFolder, read_study
from tests.dicom_files import frame, functional_group, write_enhanced, write_slice

PIXELS = np.arange(48 * 40, dtype=np.uint16).reshape(48, 40)
FRAME = frame((-12.5, 3.25, 7.0), spacing=(0.6875, 0.75), shape=PIXELS.shape)


def raw(keyword: str, representation: str, value: bytes) -> RawDataElement:
    tag = Tag(tag_for_keyword(keyword) or 0)
    return RawDataElement(tag, representation, len(value), value, 0, False, True)


def with_elements(path: Path, *elements: tuple[str, str, bytes]) -> Path:
    """Write a slice whose elements (keyword, value representation, value) have these bytes."""
    write_slice(path, PIXELS, FRAME, EchoTime="90", RepetitionTime="3000")
    dataset = dcmread(path)
    for element in elements:
        dataset[tag_for_keyword(element[0])] = raw(*element)
    dataset.save_as(path)
    return path


def as_represented(path: Path, keyword: str, representation: str) -> Path:
    """Change the value representation of a text element (LO) in a file: pydicom does not write wrong lengths."""
    tag = tag_for_keyword(keyword) or 0
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    content = path.read_bytes()
    assert head + b"LO" in content
    path.write_bytes(content.replace(head + b"LO", head + representation.encode()))
    return path


def read(path: Path) -> tuple[Header, np.ndarray, list[Repair]]:
    with open_images(path) as images:
        header = read_header(images.headers[0], path)
        return header, images.signal(), [*images.repairs, *header.repairs]


@pytest.mark.parametrize(
    ("representation", "spacing"),
    [
        ("DS", b"0,6875\\0,75"),
        ("UT", b"0.6875\\0.75"),
        ("UT", b"0,6875\\0,75"),
        ("LO", b" 0.6875 \\ 0.75 "),
        ("SH", b"0.6875\\0.75\0\0"),
        ("UN", b"0.6875\\0,75 "),
        ("CS", b"0.6875\\0.75"),
        ("PN", b"0.6875\\0.75"),
        ("OB", b"0.6875\\0.75"),
        ("ST", b'"0.6875"\\"0.75"'),
        ("DS", b"'0.6875'\\'0.75'"),
        ("DS", b"0.6875\\0.75\\"),
        ("DS", b"0.6875; 0.75"),
        ("DS", b"0.6875 0.75"),
        ("DS", b"0.6875, 0.75"),
        ("LT", b"[0.6875, 0.75]"),
        ("DS", b"+6,875e-1\\7.5D-1"),
        ("DS", b"0,6875;0,75 "),
    ],
)
def test_numbers_written_otherwise_are_read_and_noted(tmp_path: Path, representation: str, spacing: bytes) -> None:
    header, _, repairs = read(with_elements(tmp_path / "1.dcm", ("PixelSpacing", representation, spacing)))
    assert header.frame == FRAME
    assert [(repair.kind, repair.action) for repair in repairs] == [(FaultKind.ODD_NUMBER, "repaired")]


@pytest.mark.parametrize("spacing", [b"+0.6875\\ 0.75 ", b"6.875e-1\\.75\0", b"0.6875000\\7.5E-01"])
def test_what_the_standard_allows_is_not_noted(tmp_path: Path, spacing: bytes) -> None:
    header, _, repairs = read(with_elements(tmp_path / "1.dcm", ("PixelSpacing", "DS", spacing)))
    assert header.frame == FRAME and not repairs


@pytest.mark.parametrize(
    "spacing",
    [
        b"0,6875,0,75",
        b"1,5",
        b"1,2",
        b"1.234,5\\2",
        b"1,500\\0.75",
        b"0.6875\\",
        b"0.7mm\\0.7mm",
        b"1,,5\\2",
        b"Secret",
    ],
)
def test_numbers_with_two_meanings_are_refused(tmp_path: Path, spacing: bytes) -> None:
    for representation in ("DS", "UT"):
        header, _, repairs = read(with_elements(tmp_path / "1.dcm", ("PixelSpacing", representation, spacing)))
        assert header.frame is None and header.problem.startswith("PixelSpacing") and not repairs
        assert "Secret" not in header.problem


def test_a_position_and_an_orientation_with_decimal_commas(tmp_path: Path) -> None:
    elements = (
        ("ImagePositionPatient", "DS", b"-12,500\\3,25\\7"),
        ("ImageOrientationPatient", "UT", b"0,0\\1\\0\\0,0\\0\\-1,000"),
        ("PixelSpacing", "DS", b"0,6875\\0,750"),
    )
    header, _, repairs = read(with_elements(tmp_path / "1.dcm", *elements))
    assert header.frame == FRAME
    assert len(repairs) == 1 and all(name in repairs[0].message for name, _, _ in elements), "one note per image"
    # Three digits after the comma: thousands of millimetres are not a place in a scanner.
    header, _, _ = read(with_elements(tmp_path / "2.dcm", ("ImagePositionPatient", "DS", b"-12,500\\3,250\\7,000")))
    assert header.frame == FRAME


@pytest.mark.parametrize("description", [b"", b"t1_tse_sag"])
@pytest.mark.parametrize("echo", [b"Secret", b"1,2,3", b"90\\90", b"\xff\xfe"])
def test_an_echo_time_that_is_no_number_hides_nothing_else(tmp_path: Path, echo: bytes, description: bytes) -> None:
    elements = ("EchoTime", "DS", echo), ("SeriesDescription", "LO", description), ("RepetitionTime", "DS", b"3000")
    header, image, repairs = read(with_elements(tmp_path / "1.dcm", *elements))
    assert header.weighting == ("t1" if description else "") and header.frame == FRAME and not repairs
    np.testing.assert_array_equal(image, PIXELS)


@pytest.mark.parametrize(
    ("echo", "repetition", "geometry", "weighting"),
    [
        (b"12,5", b"3000,0", b"0.6875\\0.75", "t2"),
        (b"12,5", b"612,75", b"0.6875\\0.75", "t1"),
        (b"12,125", b"612,75", b"0.6875\\0.75", ""),  # or twelve thousand
        (b"12,125", b"612,125", b"0,6875\\0,75", "t1"),  # this header writes decimal commas
        (b"1.2E1", b"6.0E2", b"0,6875\\0,75", "t1"),
    ],
)
def test_times_with_commas(tmp_path: Path, echo: bytes, repetition: bytes, geometry: bytes, weighting: str) -> None:
    elements = ("EchoTime", "DS", echo), ("RepetitionTime", "LO", repetition), ("PixelSpacing", "DS", geometry)
    assert read(with_elements(tmp_path / "1.dcm", *elements))[0].weighting == weighting


@pytest.mark.parametrize(
    ("representation", "end"), [("UT", b""), ("LO", b" "), ("SH", b"\0"), ("UN", b""), ("IS", b" ")]
)
def test_a_pixel_description_in_text_elements(tmp_path: Path, representation: str, end: bytes) -> None:
    values = {"Rows": b"48", "Columns": b"40", "BitsAllocated": b"16", "BitsStored": b"16", "HighBit": b"15"}
    elements = [(name, representation, value + end) for name, value in values.items()]
    elements += [("SamplesPerPixel", representation, b"1"), ("PixelRepresentation", representation, b"0")]
    header, image, repairs = read(with_elements(tmp_path / "1.dcm", *elements))
    np.testing.assert_array_equal(image, PIXELS)
    assert header.frame == FRAME
    assert [repair.kind for repair in repairs] == [FaultKind.ODD_NUMBER] * (representation != "IS")


@pytest.mark.parametrize("rows", [b"4.8", b"4,8", b"48,000", b"Secret", b"48\\48", b""])
def test_rows_that_are_no_whole_number_are_refused(tmp_path: Path, rows: bytes) -> None:
    with pytest.raises(FileFault) as caught:
        read_image(with_elements(tmp_path / "1.dcm", ("Rows", "UT", rows)))
    assert caught.value.kind is FaultKind.UNDECODABLE and "Rows" in caught.value.message


@pytest.mark.parametrize(
    ("slope", "intercept", "expected"),
    [(b"2,5", b"-3", 2.5), (b"0,125", b"-3,0", 0.125), (b"2.5E0", b"-3", 2.5), (b"1,250", b"-3", None)],
)
@pytest.mark.parametrize("representation", ["DS", "LO", "UT"])
def test_a_rescale_in_another_spelling(
    tmp_path: Path, representation: str, slope: bytes, intercept: bytes, expected: float | None
) -> None:
    elements = ("RescaleSlope", representation, slope), ("RescaleIntercept", representation, intercept)
    _, image, repairs = read(with_elements(tmp_path / "1.dcm", *elements))
    np.testing.assert_allclose(image, PIXELS if expected is None else PIXELS * expected - 3.0)
    if expected is None:
        assert [(repair.kind, repair.action) for repair in repairs] == [(FaultKind.ODD_HEADER, "guessed")]
    else:
        assert all(repair.kind is FaultKind.ODD_NUMBER for repair in repairs)


@pytest.mark.parametrize(
    ("text", "inverted"),
    [
        (None, False),
        (b"", False),
        (b"monochrome2 ", False),
        (b"Monochrome1", True),
        (b"MONOCHROME 1", True),
        (b"MONOCHROME_2\0", False),
        (b"MONOCHROME", False),
        (b"GRAYSCALE", False),
        (b"Secret", False),
        (b"RGB", False),
        (b"YBR_FULL_422", False),
    ],
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_an_odd_photometric_interpretation_with_one_sample(
    tmp_path: Path, text: bytes | None, inverted: bool, syntax: Any
) -> None:
    path = write_slice(tmp_path / "1.dcm", PIXELS, syntax=syntax)
    dataset = dcmread(path)
    del dataset.PhotometricInterpretation
    if text is not None:
        dataset[0x00280004] = raw("PhotometricInterpretation", "CS", text)
    dataset.save_as(path)
    with open_images(path) as images:
        np.testing.assert_array_equal(images.signal(), 65535 - PIXELS if inverted else PIXELS)
        assert [(repair.kind, repair.action) for repair in images.repairs] == [(FaultKind.ODD_HEADER, "repaired")]
        assert "Secret" not in images.repairs[0].message


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        ("palette color", {}),
        ("PALETTE COLOR ", {}),
        ("RGB", {"PixelData": PIXELS.tobytes() * 3}),
        ("RGB", {"SamplesPerPixel": 3, "PixelData": PIXELS.tobytes() * 3}),
        ("YBR_FULL_422", {"PixelData": PIXELS.tobytes() * 2}),
        ("", {"SamplesPerPixel": None, "PixelData": PIXELS.tobytes() * 3}),
        ("MONOCHROME1\\MONOCHROME2", {}),
    ],
)
def test_what_may_be_a_colour_image_is_refused(tmp_path: Path, text: str, elements: dict[str, Any]) -> None:
    path = write_slice(tmp_path / "1.dcm", PIXELS, **elements)
    dataset = dcmread(path)
    dataset[0x00280004] = raw("PhotometricInterpretation", "CS", text.encode())
    dataset.save_as(path)
    with pytest.raises(FileFault) as caught:
        read_image(path)
    assert caught.value.kind is FaultKind.NOT_GREY


CHARACTER_SETS = [
    ("CS", b"\t\0\x0c\0\r\0\x0b\0\t\0"),
    ("US", struct.pack("<H", 73)),
    ("CS", b"NO SUCH SET"),
    ("CS", b"ISO_IR 100\\\0\1\2"),
    ("CS", b"\xff\xfe\xfd\xfc"),
    ("FD", struct.pack("<d", 1.5)),
    ("CS", b"hex"),
    ("LO", b"ISO_IR 192\\zlib"),
    ("OB", b"\0\1"),
]


@pytest.mark.parametrize(("representation", "value"), CHARACTER_SETS)
def test_no_file_is_refused_for_its_character_set(tmp_path: Path, representation: str, value: bytes) -> None:
    elements = ("SpecificCharacterSet", representation, value), ("SeriesDescription", "LO", b"T1 Wirbels\xe4ule")
    path = with_elements(tmp_path / "1.dcm")
    # pydicom does not write such elements: insert their bytes before the first element of group 8 that follows them.
    content = path.read_bytes()
    place = content.index(b"\x08\x00\x18\x00UI")
    inserted = b""
    for keyword, vr, text in elements:
        text += b" " * (len(text) % 2)
        long = struct.pack("<2xL", len(text)) if vr == "OB" else struct.pack("<H", len(text))
        tag = tag_for_keyword(keyword) or 0
        inserted += struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode() + long + text
    path.write_bytes(content[:place] + inserted + content[place:])
    header, image, repairs = read(path)
    np.testing.assert_array_equal(image, PIXELS)
    assert header.frame == FRAME and header.weighting == "t1"
    assert {repair.kind for repair in repairs} <= {FaultKind.ODD_HEADER}


@pytest.mark.parametrize(
    ("keyword", "representation", "value"),
    [
        ("ImageType", "US", b"\1\0\2"),
        ("ImageType", "AT", b"garbage"),
        ("ComplexImageComponent", "FD", b"garbage"),
        ("SeriesDescription", "ZZ", b"garbage!"),
        ("InstanceNumber", "IS", b"1.5"),
        ("InstanceNumber", "US", b"garbage!!"),
        ("ModalityLUTSequence", "LO", b"Secret"),
        ("PixelPaddingValue", "LO", b"Secret"),
        ("RescaleIntercept", "DS", b"Secret"),
        ("RepetitionTime", "FD", b"123"),
        ("PerFrameFunctionalGroupsSequence", "LO", b"Secret"),
    ],
)
def test_the_fault_of_one_element_costs_nothing_else(
    tmp_path: Path, keyword: str, representation: str, value: bytes
) -> None:
    path = with_elements(tmp_path / "7.dcm", (keyword, "LO", value))
    header, image, repairs = read(as_represented(path, keyword, representation))
    np.testing.assert_array_equal(image, PIXELS)
    assert header.frame == FRAME and header.instance_number == 7
    assert not [repair for repair in repairs if "Secret" in repair.message]


def test_a_phase_image_in_one_text_is_still_recognised(tmp_path: Path) -> None:
    path = with_elements(tmp_path / "1.dcm", ("ImageType", "UT", b"ORIGINAL\\PRIMARY\\p "))
    with open_images(path) as images:
        assert read_header(images.headers[0], path).acquisition.is_phase


@pytest.mark.parametrize("where", ["MREchoSequence", "PixelMeasuresSequence", "MRImageFrameTypeSequence"])
def test_in_functional_groups_too_an_element_costs_itself_alone(tmp_path: Path, where: str) -> None:
    macros = {
        "MREchoSequence": ("EffectiveEchoTime", "FD", b"Secret"),
        "PixelMeasuresSequence": ("PixelSpacing", "DS", b"0,6875\\0,75"),
        "MRImageFrameTypeSequence": ("FrameType", "US", b"\1\2\3"),
    }
    group = functional_group(FRAME, MREchoSequence={"EffectiveEchoTime": 12.0}, MRImageFrameTypeSequence={})
    timing = Dataset()
    timing.RepetitionTime = "600"
    group.MRTimingAndRelatedParametersSequence = [timing]
    keyword, representation, value = macros[where]
    getattr(group, where)[0][tag_for_keyword(keyword)] = raw(keyword, "LO", value)
    path = write_enhanced(tmp_path / "1.dcm", np.stack([PIXELS, PIXELS + 1]), [group, group])
    as_represented(path, keyword, representation)
    with open_images(path) as images:
        headers = [read_header(header, path, index, 2) for index, header in enumerate(images.headers)]
        np.testing.assert_array_equal(images.signal(1), PIXELS + 1)
    assert [header.frame for header in headers] == [FRAME, FRAME]
    assert headers[0].weighting == ("" if where == "MREchoSequence" else "t1")
    assert [repair.kind for repair in headers[1].repairs] == [FaultKind.ODD_NUMBER] * (where == "PixelMeasuresSequence")


def test_a_repaired_header_is_a_fault_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    with_elements(tmp_path / "1" / "1.dcm", ("PixelSpacing", "DS", b"0,6875\\0,75"))
    study, faults = read_study(StudyFolder(9, tmp_path, {1: tmp_path / "1"}))
    assert study.series[0].slices[0].frame == FRAME
    assert (FaultKind.ODD_NUMBER, "repaired") in [(fault.kind, fault.action) for fault in faults]
