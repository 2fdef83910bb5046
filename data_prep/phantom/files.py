"""Write DICOM files with exactly the elements of the competition's files, including their peculiarities.

The real files have 27 elements, without Modality, SOP Class or rescaling. Study and series identifiers are numbers
joined by a dot, not valid UIDs. SOPInstanceUID repeats across the series of a study. The frame of reference differs
between the series of a study, although all share patient space. Each slice has its own window.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from data_prep.phantom.protocols import Compression, SeriesPlan
from data_prep.phantom.scanner import Pixels
from data_prep.sites import View

ENHANCED_MR = UID("1.2.840.10008.5.1.4.1.1.4.1")
_ROOT_UID = "1.2.826.0.1.3680043.8.498"


@dataclass(frozen=True)
class SeriesIdentity:
    """The identifiers of a series, and its date."""

    study_id: int
    series_id: int
    frame_of_reference: int
    content_date: str


def write_series(folder: Path, identity: SeriesIdentity, plan: SeriesPlan, images: list[Pixels]) -> None:
    """Write ``<folder>/<instance_number>.dcm`` for each image."""
    folder.mkdir(parents=True)
    for index, (number, pixels) in enumerate(zip(plan.instance_numbers, images, strict=True)):
        dataset = _dataset(identity, plan, index, pixels)
        dataset.save_as(folder / f"{number}.dcm", enforce_file_format=False)


def _dataset(identity: SeriesIdentity, plan: SeriesPlan, index: int, pixels: Pixels) -> Dataset:
    frame, number = plan.frames[index], plan.instance_numbers[index]
    low, high = np.percentile(pixels[::4, ::4], (2, 99.5))
    dataset = Dataset()
    # Not unique, as in the real files: it repeats across the series of a study.
    dataset.SOPInstanceUID = f"{_ROOT_UID}.{identity.study_id}.{number}"
    dataset.ContentDate = identity.content_date
    dataset.ContentTime = f"{8 + index // 3600:02d}{index // 60 % 60:02d}{index % 60:02d}"
    dataset.SeriesDescription = "T1" if plan.view is View.SAGITTAL_T1 else "T2"
    dataset.PatientID = str(identity.study_id)
    dataset.SliceThickness = plan.thickness_mm
    if plan.spacing_between_slices_mm is not None:
        dataset.SpacingBetweenSlices = plan.spacing_between_slices_mm
    dataset.PatientPosition = "HFS"
    dataset.StudyInstanceUID = str(identity.study_id)
    dataset.SeriesInstanceUID = f"{identity.study_id}.{identity.series_id}"
    dataset.InstanceNumber = number
    dataset.ImagePositionPatient = list(frame.position_mm)
    dataset.ImageOrientationPatient = [*frame.row_direction, *frame.column_direction]
    dataset.FrameOfReferenceUID = f"{_ROOT_UID}.{identity.frame_of_reference}"
    dataset.SliceLocation = round(float(np.asarray(frame.position_mm) @ frame.normal), 4)
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = frame.shape
    dataset.PixelSpacing = list(frame.spacing_mm)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.WindowCenter = round(float(low + high) / 2, 1)
    dataset.WindowWidth = max(round(float(high - low), 1), 1.0)
    dataset.PixelData = pixels.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"

    dataset.preamble = b"\0" * 128
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = ENHANCED_MR
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if plan.compression is Compression.RLE:
        dataset.compress(RLELossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    elif plan.compression is Compression.JPEG_2000:
        dataset.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    return dataset
