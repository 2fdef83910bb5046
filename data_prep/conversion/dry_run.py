"""A dry run of a conversion: all files are read as in a conversion, nothing is written, and all faults are reported.

The positions of unannotated sites are not computed.
"""

import shutil
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from data_prep.conversion.crop_geometry import DEFAULT_CROPS, CropGeometry
from data_prep.conversion.executors import IN_PROCESS, Pool
from data_prep.conversion.study_input import StudyInput, read_input
from data_prep.conversion.twin_studies import find_twins, pixel_digest, twin_faults
from data_prep.dicom.dicom_file import open_dicom
from data_prep.faults import Fault, FaultKind, FileFault
from data_prep.folders import list_folder
from data_prep.placement.regions import marked_positions
from data_prep.sites import SITES
from data_prep.studies.cohorts import Cohort
from data_prep.studies.identity import split_study_faults
from data_prep.studies.studies import read_study

#: Smallest width of the table of faults, in characters: a narrower table of five columns is not readable.
LEAST_WIDTH = 120
HEADING = ("kind", "count", "what it means", "what is done", "for example")
#: Shares of the remaining width for the last three columns.
SHARES = (0.28, 0.28, 0.44)


@dataclass
class Findings:
    """The counts and faults of reading a study or a split: series per view, transfer syntaxes, image sizes.

    identities: a digest of the StudyInstanceUID of each study with images (`Study.identity`).
    digests: the digests of the images of each study (`pixel_digest`).
    """

    studies: int = 0
    slices: int = 0
    series: Counter[str] = field(default_factory=Counter)
    syntaxes: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    annotated: int = 0
    identities: dict[int, str] = field(default_factory=dict)
    digests: dict[int, tuple[str, ...]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def add(self, other: "Findings") -> None:
        """Add the findings of another study."""
        self.studies += other.studies
        self.slices += other.slices
        self.series += other.series
        self.syntaxes += other.syntaxes
        self.sizes += other.sizes
        self.annotated += other.annotated
        self.identities |= other.identities
        self.digests |= other.digests
        self.faults += other.faults


def check_cohort(
    cohort: Cohort, *, max_pixels: int, pool: Pool = IN_PROCESS, fold_of: Mapping[int, int] | None = None
) -> Findings:
    """Read every study of a cohort, many at a time, and return what was found.

    fold_of: the folds that the studies would be divided into, if they would.
    """
    inputs = [read_input(folder) for folder in cohort.folders]
    findings = Findings(faults=list(cohort.faults))
    for study in pool.map(
        partial(_check_study, max_pixels=max_pixels),
        inputs,
        description=f"reading {cohort.split}",
        name=lambda study_input: study_input.name,
        weight=lambda study_input: study_input.files,
    ):
        findings.add(study)
    findings.faults += split_study_faults(cohort.split, findings.identities)
    findings.faults += twin_faults(find_twins(findings.digests, fold_of or {}), fold_of or {})
    return findings


def _check_study(study_input: StudyInput, max_pixels: int) -> Findings:
    folder = study_input.folder
    study, faults = read_study(folder, max_pixels)
    positions, mark_faults = marked_positions(study)
    images = [image for series in study.series for image in series.slices]
    syntaxes = (_syntax(folder.series[series.series_id], folder.root, max_pixels) for series in study.series)
    return Findings(
        studies=bool(images),
        slices=len(images),
        series=Counter(series.view.words if series.view else "of no known view" for series in study.series),
        syntaxes=Counter(syntaxes),
        sizes=Counter(f"{columns} x {rows}" for rows, columns in (image.shape for image in images)),
        annotated=len(positions),
        identities={study.study_id: study.identity} if images else {},
        digests={study.study_id: tuple(pixel_digest(image.grey) for image in images)} if images else {},
        faults=[*faults, *mark_faults],
    )


def _syntax(folder: Path, root: Path, max_pixels: int) -> str:
    """Return the name of a series' transfer syntax, from its first file that can be opened."""
    for path in list_folder(folder, root).files:
        try:
            with open_dicom(path, max_pixels) as file:
                return file.syntax.name
        except FileFault:
            continue
    return "unknown"


def describe(cohort: Cohort, findings: Findings, placer: str, geometry: CropGeometry = DEFAULT_CROPS) -> str:
    """Return a few lines about what would be converted.

    Args:
        cohort: The studies.
        findings: What reading them found.
        placer: What would place unannotated sites, in words.
        geometry: The geometry of the crops.
    """
    per_site = max(len(site.views) for site in SITES) * geometry.tiles_per_view * geometry.bytes_per_tile
    sites = findings.studies * len(SITES)
    lines = [
        f"{findings.studies} of {len(cohort.study_ids)} studies have images",
        f"{findings.series.total()} series: {_counts(findings.series)}",
        f"{findings.slices} slices: {_counts(findings.sizes, most=4)}",
        f"stored as {_counts(findings.syntaxes)}",
        f"{findings.annotated} of {sites} sites are marked; {placer} would place the others",
        f"crops of {geometry}: at most {per_site / 1e3:,.0f} kB per site, {sites * per_site / 1e6:,.0f} MB in all, "
        "and as much again while they are written",
        f"{len(findings.faults)} faults{':' if findings.faults else ''}",
    ]
    return "\n".join(f"{cohort.split}: {line}" for line in lines)


def _counts(counter: Counter[str], most: int | None = None) -> str:
    """Return counts as text, ``Axial T2 (4), Sagittal T1 (3)``; all but the `most` frequent are summed up."""
    ranked = sorted(counter.items(), key=lambda entry: (-entry[1], entry[0]))
    shown = [f"{name} ({count})" for name, count in ranked[:most]]
    rest = [count for _, count in ranked[len(shown) :]]
    others = [f"{len(rest)} other{'s' if len(rest) > 1 else ''} ({sum(rest)})"] if rest else []
    return ", ".join(shown + others) or "none"


def fault_table(faults: Iterable[Fault], width: int | None = None) -> str:
    """Return a table of the kinds of faults with count, meaning and an example, the most frequent kind first.

    The text is empty if there are no faults. The width is in characters; None for that of the terminal.
    """
    of_kind: dict[FaultKind, list[Fault]] = {}
    for fault in faults:
        of_kind.setdefault(fault.kind, []).append(fault)
    if not of_kind:
        return ""
    rows = [
        (str(kind), str(len(found)), kind.meaning, kind.done, f"{found[0].path}: {found[0].message}")
        for kind, found in sorted(of_kind.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    ]
    width = max(LEAST_WIDTH, width or shutil.get_terminal_size((LEAST_WIDTH, 24)).columns)
    narrow = [max(len(row[column]) for row in [HEADING, *rows]) for column in (0, 1)]
    left = width - sum(narrow) - 2 * (len(HEADING) - 1)
    widths = [*narrow, *(int(share * left) for share in SHARES)]
    rules = tuple("-" * column for column in widths)
    return "\n".join(line for row in [HEADING, rules, *rows] for line in _wrapped(row, widths))


def _wrapped(row: Sequence[str], widths: Sequence[int]) -> Iterable[str]:
    """Return a row's lines, with each cell wrapped within its column."""
    cells = [textwrap.wrap(text, width) or [""] for text, width in zip(row, widths, strict=True)]
    for number in range(max(map(len, cells))):
        parts = (lines[number] if number < len(lines) else "" for lines in cells)
        yield "  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip()
