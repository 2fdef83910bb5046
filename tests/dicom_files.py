"""Write small DICOM files for tests, with the same elements as those of the competition."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, MRImageStorage

from data_prep.geometry import Frame

SAGITTAL = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))

PUBLISHED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_published_files = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published MR files do not exist here")


def frame(
    position: tuple[float, float, float],
    directions: tuple[tuple[float, float, float], tuple[float, float, float]] = SAGITTAL,
    spacing: tuple[float, float] = (1.0, 1.0),
    shape: tuple[int, int] = (64, 64),
) -> Frame:
    return Frame(position, *directions, spacing, shape)


def write_slice(
    path: Path,
    pixels: np.ndarray,
    geometry: Frame | None = None,
    syntax: UID = ExplicitVRLittleEndian,
    **elements: Any,
) -> Path:
    """Write one grey image. `elements` are set last, by keyword; the value None removes an element."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientName = "Secret^Name"
    dataset.PatientBirthDate = "19700102"
    dataset.InstanceNumber = path.stem if path.stem.isdigit() else "1"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored = dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset["PixelData"] = _pixel_data(pixels)
    if geometry is not None:
        dataset.ImagePositionPatient = list(geometry.position_mm)
        dataset.ImageOrientationPatient = [*geometry.row_direction, *geometry.column_direction]
        dataset.PixelSpacing = list(geometry.spacing_mm)
    if syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax, generate_instance_uid=False)
    for name, value in elements.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def functional_group(geometry: Frame | None = None, **macros: dict[str, Any]) -> Dataset:
    """Return an item of functional groups: the geometry of a frame, and other macros by name with their elements."""
    if geometry is not None:
        orientation = [*geometry.row_direction, *geometry.column_direction]
        macros["PlanePositionSequence"] = {"ImagePositionPatient": list(geometry.position_mm)}
        macros["PlaneOrientationSequence"] = {"ImageOrientationPatient": orientation}
        macros["PixelMeasuresSequence"] = {"PixelSpacing": list(geometry.spacing_mm)}
    group = Dataset()
    for macro, elements in macros.items():
        item = Dataset()
        for name, value in elements.items():
            setattr(item, name, value)
        setattr(group, macro, [item])
    return group


def write_enhanced(
    path: Path,
    images: np.ndarray,
    groups: list[Dataset] | None,
    shared: Dataset | None = None,
    syntax: UID = ExplicitVRLittleEndian,
    **elements: Any,
) -> Path:
    """Write `images` (frames, rows, columns) in one file, with one item of functional groups per frame, or none."""
    write_slice(path, images[0])
    dataset = dcmread(path)
    dataset.NumberOfFrames = len(images)
    dataset["PixelData"] = _pixel_data(images)
    if groups is not None:
        dataset.PerFrameFunctionalGroupsSequence = groups
    if shared is not None:
        dataset.SharedFunctionalGroupsSequence = [shared]
    if syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax, generate_instance_uid=False)
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def deflated(path: Path) -> Path:
    """Rewrite an explicit little-endian file as a deflated one."""
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    return path


def _pixel_data(pixels: np.ndarray) -> Any:
    from pydicom.dataelem import DataElement

    return DataElement(0x7FE00010, "OB" if pixels.dtype.itemsize == 1 else "OW", pixels.tobytes())
