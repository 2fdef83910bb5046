"""Multi-frame files: each frame's header as that of the single image it would have been.

Enhanced MR keeps geometry and rescale in functional groups (PS3.3 C.7.6.16), shared by all frames or
one item a frame; the latter wins. Frame k of file N, counted from 1, is instance N * 1000 + k.
"""

from collections.abc import Sequence

from pydicom import Dataset

from data_prep.decoding import MAX_FRAMES

#: Functional group macros and what is taken of them, under the name that a single image has for it.
_MACROS = {
    "PlanePositionSequence": {"ImagePositionPatient": "ImagePositionPatient"},
    "PlaneOrientationSequence": {"ImageOrientationPatient": "ImageOrientationPatient"},
    "PixelMeasuresSequence": {"PixelSpacing": "PixelSpacing"},
    "PixelValueTransformationSequence": {
        "RescaleSlope": "RescaleSlope",
        "RescaleIntercept": "RescaleIntercept",
    },
    "MREchoSequence": {"EffectiveEchoTime": "EchoTime"},
    "MRTimingAndRelatedParametersSequence": {"RepetitionTime": "RepetitionTime"},
    "MRImageFrameTypeSequence": {"ComplexImageComponent": "ComplexImageComponent", "FrameType": "ImageType"},
}
_GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


def frame_headers(header: Dataset, frames: int) -> list[Dataset]:
    """One header for each of `frames`. Where many frames have no functional groups, none has geometry:
    the header's own could be that of any of them."""
    shared_groups, frame_groups = (_items(header, name) for name in _GROUPS)
    if not shared_groups and not frame_groups:
        return [header] if frames == 1 else [_without(header, _GEOMETRY)] * frames
    common = _without(header, (*_GROUPS, *_GEOMETRY) if frames > 1 else _GROUPS)
    for group in shared_groups[:1]:
        _take(common, group)
    headers = []
    for frame in range(frames):
        single = Dataset()
        single.update(common)
        if frame < len(frame_groups):
            _take(single, frame_groups[frame])
        headers.append(single)
    return headers


def frame_instance(file_number: int, frame: int, frames: int) -> int:
    """The instance number of a frame, counted from 0, of file `file_number`."""
    return file_number if frames == 1 else file_number * (MAX_FRAMES + 1) + frame + 1


def _take(header: Dataset, group: Dataset) -> None:
    """Set what `group`, an item of functional groups, says."""
    for macro, names in _MACROS.items():
        for item in _items(group, macro)[:1]:
            for name, single_name in names.items():
                if name in item:
                    # A new element: the one that is there belongs to other frames too.
                    header.pop(single_name, None)
                    setattr(header, single_name, item.get(name))


def _items(header: Dataset, name: str) -> Sequence[Dataset]:
    """The items of a sequence; none where it is missing or empty."""
    value = header.get(name)
    return value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else ()


def _without(header: Dataset, names: Sequence[str]) -> Dataset:
    kept = Dataset()
    kept.update({element.tag: element for element in header if element.keyword not in names})
    return kept
