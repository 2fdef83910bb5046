"""Tests of data_prep/dicom/multi_frame.py: the frames of one file are read like files of one frame each."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from data_prep.dicom.headers import read_header
from data_prep.dicom.multi_frame import frame_instance
from data_prep.dicom.pixels import open_images, read_image
from data_prep.faults import FaultKind, FileFault
from data_prep.sites import View
from data_prep.studies.studies import StudyFolder, read_study
from tests.dicom_files import AXIAL, SAGITTAL, frame, functional_group, write_enhanced, write_slice

IMAGES = np.random.default_rng(0).integers(0, 900, (5, 44, 40)).astype(np.uint16)
FRAMES = [frame((x, -3.0, 40.0), SAGITTAL, (0.5, 0.75), (44, 40)) for x in (8.0, 4.0, 0.0, -4.0, -8.0)]


def study_of(root: Path):  # type: ignore[no-untyped-def]
    return read_study(StudyFolder(9, root, {1: root / "1"}, {1: View.SAGITTAL_T1}))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_a_multi_frame_file_reads_as_single_frame_files(tmp_path: Path, syntax) -> None:  # type: ignore[no-untyped-def]
    groups = [functional_group(geometry) for geometry in FRAMES]
    write_enhanced(tmp_path / "many" / "1" / "7.dcm", IMAGES, groups, syntax=syntax)
    for number, (image, geometry) in enumerate(zip(IMAGES, FRAMES, strict=True), start=7001):
        write_slice(tmp_path / "single" / "1" / f"{number}.dcm", image, geometry)
    (many, many_faults), (single, single_faults) = study_of(tmp_path / "many"), study_of(tmp_path / "single")
    assert not many_faults and not single_faults
    assert many.series == single.series and many.series[0].stacks == ((0, 1, 2, 3, 4),)
    for one, other in zip(many.series[0].slices, single.series[0].slices, strict=True):
        np.testing.assert_array_equal(one.grey, other.grey)
    assert [image.instance_number for image in many.series[0].slices] == [7005, 7004, 7003, 7002, 7001]


def test_shared_groups_hold_unless_a_frame_overrides_them(tmp_path: Path) -> None:
    value = {"RescaleSlope": "2", "RescaleIntercept": "1"}
    shared = functional_group(
        FRAMES[0],
        PixelValueTransformationSequence=value,
        MREchoSequence={"EffectiveEchoTime": 100.0},
        MRTimingAndRelatedParametersSequence={"RepetitionTime": "3000"},
    )
    own = functional_group(FRAMES[3], PixelValueTransformationSequence={"RescaleSlope": "3", "RescaleIntercept": "0"})
    path = write_enhanced(tmp_path / "2.dcm", IMAGES[:2], [functional_group(), own], shared)
    with open_images(path) as images:
        headers = [read_header(header, path, index, 2) for index, header in enumerate(images.headers)]
        np.testing.assert_allclose(images.signal(0), IMAGES[0] * 2.0 + 1)
        np.testing.assert_allclose(images.signal(1), IMAGES[1] * 3.0)
    assert [header.frame for header in headers] == [FRAMES[0], FRAMES[3]]
    assert [header.weighting for header in headers] == ["t2", "t2"]
    assert [header.instance_number for header in headers] == [2001, 2002]


def test_frames_without_functional_groups_have_no_geometry(tmp_path: Path) -> None:
    geometry = FRAMES[0]
    path = write_enhanced(
        tmp_path / "1" / "3.dcm",
        IMAGES,
        None,
        ImagePositionPatient=list(geometry.position_mm),
        ImageOrientationPatient=[*geometry.row_direction, *geometry.column_direction],
        PixelSpacing=list(geometry.spacing_mm),
    )
    study, faults = study_of(tmp_path)
    assert [image.frame for image in study.series[0].slices] == [None] * 5
    assert [image.instance_number for image in study.series[0].slices] == [3001, 3002, 3003, 3004, 3005]
    assert [fault.kind for fault in faults] == [FaultKind.NO_GEOMETRY], "one file, one fault"
    np.testing.assert_array_equal(read_image(path, frame=4), IMAGES[4])


def test_fewer_groups_than_frames_leave_frames_without_geometry(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "1" / "1.dcm", IMAGES, [functional_group(geometry) for geometry in FRAMES[:3]])
    study, faults = study_of(tmp_path)
    assert [image.frame is None for image in study.series[0].slices] == [False] * 3 + [True] * 2
    assert [fault.kind for fault in faults] == [FaultKind.NO_GEOMETRY]


def test_only_a_damaged_frame_is_skipped(tmp_path: Path) -> None:
    groups = [functional_group(geometry) for geometry in FRAMES]
    path = write_enhanced(tmp_path / "1" / "1.dcm", IMAGES, groups, syntax=JPEG2000Lossless)
    content = bytearray(path.read_bytes())
    second = content.index(b"\xff\x4f\xff\x51", content.index(b"\xff\x4f\xff\x51") + 4)
    content[second + 8 : second + 16] = b"\0\0\0\x08\0\0\0\x08"  # the codestream's own width and height
    path.write_bytes(content)
    study, faults = study_of(tmp_path)
    assert [image.instance_number for image in study.series[0].slices] == [1005, 1004, 1003, 1001]
    assert [fault.kind for fault in faults] == [FaultKind.WRONG_SHAPE]


def test_a_phase_image_is_written_without_a_region(tmp_path: Path) -> None:
    kinds = ["MAGNITUDE", "PHASE"]
    groups = [functional_group(FRAMES[0], MRImageFrameTypeSequence={"ComplexImageComponent": kind}) for kind in kinds]
    path = write_enhanced(tmp_path / "1" / "1.dcm", IMAGES[:2], groups)
    np.testing.assert_array_equal(read_image(path, frame=1), IMAGES[1])
    study, faults = study_of(tmp_path)
    shown = {image.instance_number: not image.other_contrast for image in study.series[0].slices}
    assert shown == {1001: True, 1002: False}
    assert [fault.kind for fault in faults] == [FaultKind.SEVERAL_CONTRASTS]


def test_a_single_frame_in_functional_groups_keeps_the_number_of_its_file(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "12.dcm", IMAGES[:1], [functional_group(FRAMES[1])])
    with open_images(path) as images:
        (header,) = images.headers
        assert read_header(header, path, 0, 1).instance_number == 12 == frame_instance(12, 0, 1)
        assert read_header(header, path, 0, 1).frame == FRAMES[1]


def test_frames_of_two_orientations_are_two_stacks(tmp_path: Path) -> None:
    axial = [frame((0.0, 0.0, z), AXIAL, (1.0, 1.0), (44, 40)) for z in (0.0, 5.0)]
    write_enhanced(tmp_path / "1" / "1.dcm", IMAGES, [functional_group(geometry) for geometry in (*axial, *FRAMES[:3])])
    study, _ = study_of(tmp_path)
    assert sorted(map(len, study.series[0].stacks)) == [2, 3]


@pytest.mark.parametrize("frames", [6, 999, 2**31 - 1])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_a_file_with_fewer_frames_than_described_is_refused(tmp_path: Path, frames: int, syntax) -> None:  # type: ignore[no-untyped-def]
    path = write_enhanced(tmp_path / "1.dcm", IMAGES, None, syntax=syntax, NumberOfFrames=frames)
    with pytest.raises(FileFault) as caught:
        read_image(path)
    assert caught.value.kind is (FaultKind.MULTI_FRAME if frames > 999 else FaultKind.TRUNCATED)
