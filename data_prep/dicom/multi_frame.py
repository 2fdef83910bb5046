"""Multi-frame files: present the header of each frame as that of a single-frame file.

Enhanced MR stores geometry and rescale in functional groups (PS3.3 C.7.6.16), one shared by all frames and one per
frame; the latter takes precedence. Frame k of file N, counted from 1, gets the instance number N * 1000 + k.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, overload

from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag, Tag

from data_prep.dicom.header_values import READ_ERRORS, HeaderError, as_text_if_digits, value_of
from data_prep.dicom.pixel_description import MAX_FRAMES

#: For each functional group macro: the elements that are read, and the name of each in a single-frame file.
_MACROS = {
    "PlanePositionSequence": {"ImagePositionPatient": "ImagePositionPatient"},
    "PlaneOrientationSequence": {"ImageOrientationPatient": "ImageOrientationPatient"},
    "PixelMeasuresSequence": {
        "PixelSpacing": "PixelSpacing",
        "SliceThickness": "SliceThickness",
        "SpacingBetweenSlices": "SpacingBetweenSlices",
    },
    "PixelValueTransformationSequence": {
        "RescaleSlope": "RescaleSlope",
        "RescaleIntercept": "RescaleIntercept",
    },
    "MREchoSequence": {"EffectiveEchoTime": "EchoTime"},
    "MRTimingAndRelatedParametersSequence": {"RepetitionTime": "RepetitionTime", "FlipAngle": "FlipAngle"},
    "MRModifierSequence": {"InversionTimes": "InversionTime"},
    "MRDiffusionSequence": {"DiffusionBValue": "DiffusionBValue"},
    "MRImageFrameTypeSequence": {
        "ComplexImageComponent": "ComplexImageComponent",
        "FrameType": "ImageType",
        "AcquisitionContrast": "AcquisitionContrast",
        "VolumeBasedCalculationTechnique": "VolumeBasedCalculationTechnique",
    },
    "ContrastBolusUsageSequence": {"ContrastBolusAgentAdministered": "ContrastBolusAgent"},
    "FrameContentSequence": {
        "TemporalPositionIndex": "TemporalPositionIdentifier",
        "FrameAcquisitionNumber": "AcquisitionNumber",
    },
    "CardiacSynchronizationSequence": {"NominalCardiacTriggerDelayTime": "TriggerTime"},
}
_COPIED = {
    macro: [(Tag(name), Tag(single_name)) for name, single_name in names.items()] for macro, names in _MACROS.items()
}
_GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


class FrameHeaders(Sequence[Dataset]):
    """The headers of all frames of a file, each made on access because a file may have hundreds.

    If several frames have no functional groups, none of them has geometry: that of the file could belong to any.
    """

    def __init__(self, header: Dataset, frames: int) -> None:
        self._frames = frames
        shared_groups, self._groups = (_items(header, name) for name in _GROUPS)
        own = not self._groups and not shared_groups and frames == 1
        self._common = header if own else _without(header, _GROUPS if frames == 1 else (*_GROUPS, *_GEOMETRY))
        for group in shared_groups[:1]:
            _apply_group(self._common, group)
        self._last: tuple[int, Dataset] = (-1, self._common)

    def __len__(self) -> int:
        return self._frames

    @overload
    def __getitem__(self, index: int) -> Dataset: ...
    @overload
    def __getitem__(self, index: slice) -> list[Dataset]: ...
    def __getitem__(self, index: int | slice) -> Dataset | list[Dataset]:
        if isinstance(index, slice):
            return [self[frame] for frame in range(*index.indices(self._frames))]
        if not 0 <= index < self._frames:
            raise IndexError(index)
        if self._last[0] != index:
            self._last = (index, self._header(index))
        return self._last[1]

    def _header(self, frame: int) -> Dataset:
        if frame >= len(self._groups):
            return self._common
        single = _copied(self._common)
        _apply_group(single, self._groups[frame])
        return single


def frame_instance(file_number: int, frame: int, frames: int) -> int:
    """Return the instance number of frame number `frame`, counted from 0, of `frames` in file `file_number`."""
    return file_number if frames == 1 else file_number * (MAX_FRAMES + 1) + frame + 1


def _apply_group(header: Dataset, group: Dataset) -> None:
    """Copy the elements of `group`, an item of functional groups, to `header`.

    They are copied unparsed, so that an element that cannot be parsed affects nothing else.
    """
    for macro, tags in _COPIED.items():
        for item in _items(group, macro)[:1]:
            for tag, single_tag in tags:
                if tag in item:
                    # Replace the element instead of changing it: other frames share it.
                    header[single_tag] = _renamed(item.get_item(tag), single_tag)


def _renamed(element: Any, tag: BaseTag) -> RawDataElement | DataElement:
    """Return a copy of an element under another tag, with the value representation of its own one."""
    if isinstance(element, RawDataElement):
        element = as_text_if_digits(element)
        known = dictionary_VR(element.tag) if element.VR in (None, "UN") else element.VR
        return element._replace(tag=tag, VR=known)
    return DataElement(tag, element.VR, element.value, already_converted=True)


def _items(header: Dataset, name: str) -> Sequence[Dataset]:
    """Return the items of a sequence; none if it is missing, empty or cannot be parsed."""
    try:
        value = value_of(header, name)
    except HeaderError:
        return ()
    return value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else ()


def _without(header: Dataset, names: Sequence[str]) -> Dataset:
    """Return a header without some elements; those that cannot be parsed are copied unparsed."""
    for tag in list(header.keys()):
        with suppress(*READ_ERRORS):
            header[tag]  # parsed once here, not once per frame
    kept = _copied(header)
    for name in names:
        kept.pop(name, None)
    return kept


def _copied(header: Dataset) -> Dataset:
    copy = Dataset()
    implicit, little_endian = header.original_encoding
    copy.set_original_encoding(implicit, little_endian, header.original_character_set)
    copy.update(header)
    return copy
