"""Tell how one image was acquired, which distinguishes the pictures that several sequences took of one slice.

The elements are kept as they were read and parsed only if a question is asked, because most series need none of them.
Texts are compared with terms and with each other; they are never repeated in a message.
"""

import math
import re
from functools import cached_property

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import BaseTag, Tag

from data_prep.dicom.dicom_file import pydicom_warnings_ignored
from data_prep.dicom.header_values import HeaderError, number, texts

#: Elements whose numbers distinguish pictures of one slice, with the absolute and the relative difference that matters.
CONTRAST_NUMBERS = {
    "EchoTime": (0.3, 0.05),
    "InversionTime": (10.0, 0.05),
    "RepetitionTime": (20.0, 0.05),
    "FlipAngle": (2.0, 0.1),
    "DiffusionBValue": (5.0, 0.05),
}
#: Elements whose terms distinguish pictures of one slice.
CONTRAST_TERMS = (
    "ImageType", "ComplexImageComponent", "ContrastBolusAgent", "ScanningSequence", "ScanOptions", "SequenceName",
    "AcquisitionContrast", "SeriesDescription", "SeriesInstanceUID",
)  # fmt: skip
#: Elements that number the repetitions of one slice in the order of time.
TIME_NUMBERS = ("TemporalPositionIdentifier", "AcquisitionNumber", "TriggerTime")
_KEYWORDS = (
    *CONTRAST_NUMBERS, *CONTRAST_TERMS, *TIME_NUMBERS,
    "VolumeBasedCalculationTechnique", "SOPInstanceUID", "SliceLocation", "SpacingBetweenSlices", "SliceThickness",
)  # fmt: skip
_TAG_OF = {keyword: Tag(tag) for keyword in _KEYWORDS if (tag := tag_for_keyword(keyword)) is not None}

_PHASE = frozenset({"P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY", "VELOCITY"})
_COMPUTED = re.compile(
    r"(?<![A-Z])(E?ADC|FA|COLFA|TRACEW?|TENSOR|MAPS?|T1MAP|T2MAP|MIP|MINIP|MAX_IP|MIN_IP|MEAN_IP|PROJECTION IMAGE|"
    r"SUB|SUBTRACT\w*|PERFUSION|R2)(?![A-Z])"
)
#: How desirable the parts of a Dixon image are: in phase it looks like an ordinary image, water like one without fat.
_DIXON = (
    frozenset({"IN_PHASE", "INPHASE", "IN", "IP"}),
    frozenset({"WATER", "W"}),
    frozenset({"OPP_PHASE", "OPPOSED_PHASE", "OUT_PHASE", "OUT_OF_PHASE", "OPP", "OUT", "OP"}),
    frozenset({"FAT", "F"}),
)
_DIXON_SEQUENCE = re.compile(r"DIXON|IDEAL|FLEX|LAVA")
_NO_AGENT = frozenset({"", "NO", "NONE", "N/A", "NA", "0", "OFF", "WITHOUT"})
_AFTER_AGENT = re.compile(r"(?<![A-Z])(POST|GD|GAD\w*|KM|CE|\+ ?C|C ?\+)(?![A-Z])")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")
_DIFFUSION_NAME = re.compile(r"(?<![A-Z])B(\d{1,5})")


class Acquisition:
    """The acquisition of one image.

    Args:
        header: the header of this image alone, as `FrameHeaders` gives it.
    """

    def __init__(self, header: Dataset) -> None:
        self._elements: dict[BaseTag, DataElement | RawDataElement] = {
            tag: header.get_item(tag) for tag in _TAG_OF.values() if tag in header
        }
        self._terms: dict[str, tuple[str, ...]] = {}
        self._numbers: dict[str, float | None] = {}

    @cached_property
    def _header(self) -> Dataset:
        """The elements, parsed as they are asked for."""
        return Dataset(self._elements)

    def number(self, keyword: str) -> float | None:
        """Return an element as a finite number, of several the first; None if it is missing or not a number."""
        if keyword not in self._numbers:
            self._numbers[keyword] = self._number(keyword)
        return self._numbers[keyword]

    def _number(self, keyword: str) -> float | None:
        tag = _TAG_OF[keyword]
        if tag not in self._elements:
            return None
        header = self._header
        with pydicom_warnings_ignored():
            try:
                found = number(header, keyword, math.nan)
            except HeaderError:
                first = texts(header, keyword)[:1]
                found = float(first[0]) if first and _NUMBER.fullmatch(first[0]) else math.nan
        return found if math.isfinite(found) else None

    def terms(self, keyword: str) -> tuple[str, ...]:
        """Return the terms of an element in capital letters; none if it is missing or cannot be parsed."""
        tag = _TAG_OF[keyword]
        if tag not in self._elements:
            return ()
        if keyword not in self._terms:
            with pydicom_warnings_ignored():
                found = texts(self._header, keyword)
            self._terms[keyword] = tuple(term.upper() for term in found)
        return self._terms[keyword]

    def trait(self, keyword: str) -> tuple[str, ...]:
        """Return the terms by which images are compared; those of a sequence's name are without its counters."""
        if keyword == "ContrastBolusAgent":
            return ("AGENT",) if self.after_agent else ()
        if keyword == "SequenceName":
            return tuple(re.sub(r"#\d+$", "", name) for name in self.terms(keyword))
        return self.terms(keyword)

    def same_contrast(self, other: "Acquisition") -> bool:
        """Return whether nothing that distinguishes pictures of one slice differs, apart from the time."""
        near = all(
            (one := self.number(keyword)) == (two := other.number(keyword))
            or (one is not None and two is not None and abs(one - two) <= max(absolute, relative * abs(two)))
            for keyword, (absolute, relative) in CONTRAST_NUMBERS.items()
        )
        return near and all(self.trait(keyword) == other.trait(keyword) for keyword in CONTRAST_TERMS)

    @cached_property
    def identifier(self) -> str:
        """The SOPInstanceUID, for comparison only; empty if it is missing."""
        return "".join(self.terms("SOPInstanceUID"))

    @cached_property
    def is_phase(self) -> bool:
        """Whether the image shows the phase, or a part of a complex image, rather than the magnitude."""
        return bool(_PHASE.intersection([*self.terms("ImageType")[2:], *self.terms("ComplexImageComponent")]))

    @cached_property
    def is_computed(self) -> bool:
        """Whether the image was computed from several others: a map, a projection or a difference."""
        words = (*self.terms("ImageType")[2:], *self.terms("SeriesDescription"))
        volume = self.terms("VolumeBasedCalculationTechnique")
        return any(_COMPUTED.search(word) for word in (*words, *volume))

    @cached_property
    def is_derived(self) -> bool:
        return self.terms("ImageType")[:1] == ("DERIVED",)

    @cached_property
    def after_agent(self) -> bool:
        """Whether the image was taken after a contrast agent was given."""
        if set(self.terms("ContrastBolusAgent")) - _NO_AGENT:
            return True
        return any(_AFTER_AGENT.search(word.replace("_", " ")) for word in self.terms("SeriesDescription"))

    @cached_property
    def is_fat_suppressed(self) -> bool:
        return "FS" in self.terms("ScanOptions")

    @cached_property
    def b_value(self) -> float:
        """The strength of the diffusion weighting in s/mm2; 0 without one."""
        stated = self.number("DiffusionBValue")
        named = [match for name in self.terms("SequenceName") if (match := _DIFFUSION_NAME.search(name))]
        return stated if stated is not None else float(named[0][1]) if named else 0.0

    @cached_property
    def dixon_rank(self) -> int:
        """How desirable this part of a Dixon image is, 0 first: in phase (or no part), water, opposed phase, fat."""
        words = set(self.terms("ImageType")[2:])
        for text in self.terms("SeriesDescription"):
            if _DIXON_SEQUENCE.search(text):
                words |= set(re.split(r"[^A-Z0-9]+", text))
        return next((rank for rank, names in enumerate(_DIXON) if names & words), 0)
