"""A cohort: studies drawn, scanned and written, each from its own random streams, and their tables."""

import json
import multiprocessing
import shutil
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_prep.phantom.anatomy import Patient, draw_body
from data_prep.phantom.files import SeriesIdentity, write_series
from data_prep.phantom.grades import draw_grades, forced_grades
from data_prep.phantom.protocols import Scanners, SeriesPlan, Size, plan_study
from data_prep.phantom.scanner import acquire
from data_prep.phantom.tables import StudyRecord, read_study, write_tables, write_truth
from data_prep.sites import SITES, Severity, Site
from workspace.interrupts import held, stop_if_requested
from workspace.json_files import read_object
from workspace.layout import DataRoot, Split

SCHEMA_VERSION = 1

# One stream each: changing how many numbers one part draws leaves the others' as they were.
_STREAMS = ("identity", "grades", "body", "protocol", "reading", "noise")


@dataclass(frozen=True)
class CohortSettings:
    """What a cohort is made from. severities: forces these true severities on every study, other sites Normal/Mild."""

    seed: int
    scanners: Scanners
    size: Size
    severities: Mapping[Site, Severity] | None = None

    @property
    def forced(self) -> bool:
        return self.severities is not None


def write_cohort(
    root: Path,
    train: int,
    test: int,
    seed: int,
    scanners: Scanners | str = Scanners.FIRST,
    size: Size | str = Size.SMALL,
    workers: int = 1,
    severities: Mapping[Site, Severity] | None = None,
    progress: bool = False,
) -> Path:
    """Write ``<root>/dataset`` and ``<root>/phantom_truth``; the same settings give the same bytes.

    With `severities`, every study has exactly these (Normal/Mild at other sites), all series, all labels, and no
    label noise. Returns the root. Does nothing where this very cohort is there already.
    Raises ValueError for impossible numbers, or where another ``dataset`` is in the way.
    """
    if train < 0 or test < 0 or train + test < 1:
        raise ValueError(f"--train {train} --test {test}: at least one study is needed, and neither may be negative")
    if workers < 1:
        raise ValueError(f"--workers {workers}: at least one process is needed")
    if seed < 0:
        raise ValueError(f"--seed {seed}: must not be negative")
    if (beside := next((path for path in (root, *root.parents) if path.exists()), root)) and not beside.is_dir():
        raise ValueError(f"--root {str(root)!r}: {beside} is a file; it should be a folder to write dataset/ in")
    settings = CohortSettings(seed, Scanners(scanners), Size(size), severities)
    manifest = _manifest(settings, train, test)
    final = DataRoot(Path(root))
    if _is_there(final.path, manifest):
        return final.path
    working = DataRoot(final.path / ".phantom_unfinished")
    shutil.rmtree(working.path, ignore_errors=True)
    counts: dict[Split, int] = {"train": train, "test": test}
    truth = working.path / "phantom_truth"
    try:
        for split, count in counts.items():
            if count:
                working.images(split).mkdir(parents=True)
        truth.mkdir()
        jobs = [(split, index) for split, count in counts.items() for index in range(count)]
        make = partial(write_study, working, settings)
        records = list(tqdm(_mapped(make, jobs, workers), total=len(jobs), unit="study", disable=not progress))
        if len({record.study_id for record in records}) < len(records):
            raise ValueError(f"--seed {seed}: two studies drew the same number; take another seed")
        write_tables(working.dataset, records)
        write_truth(truth / "truth.csv", records)
        (truth / "cohort.json").write_text(json.dumps(manifest, indent=1) + "\n")
        working.dataset.rename(final.dataset)
        truth.rename(final.path / "phantom_truth")
    finally:
        shutil.rmtree(working.path, ignore_errors=True)
    return final.path


def write_study(root: DataRoot, settings: CohortSettings, job: tuple[Split, int]) -> StudyRecord:
    """Draw, scan and write one study; `job` is its split and its number there."""
    split, index = job
    streams = study_streams(settings.seed, split, index)
    study_id, series_ids = _identities(streams["identity"])
    patient, plans = draw_study(settings, split, index)
    series_ids = series_ids[: len(plans)]
    day = streams["identity"].integers(1, 29)
    for series_id, plan in zip(series_ids, plans, strict=True):
        identity = SeriesIdentity(
            study_id, series_id, int(streams["identity"].integers(1, 2**31)), f"202{day % 4}01{day:02d}"
        )
        folder = root.images(split) / str(study_id) / str(series_id)
        write_series(folder, identity, plan, acquire(patient, plan, streams["noise"]))
    labels, marks = read_study(patient, plans, series_ids, streams["reading"], exact=settings.forced)
    return StudyRecord(
        study_id=study_id,
        split=split,
        series=tuple((series_id, plan.view) for series_id, plan in zip(series_ids, plans, strict=True)),
        grades=dict(patient.grades),
        positions_mm={site: tuple(map(float, patient.position_mm(site))) for site in SITES},  # type: ignore[misc]
        labels=labels,
        marks=marks,
    )


def draw_study(settings: CohortSettings, split: Split, index: int) -> tuple[Patient, tuple[SeriesPlan, ...]]:
    """A study's patient and series plans, without rendering anything."""
    streams = study_streams(settings.seed, split, index)
    if settings.severities is None:
        grades = draw_grades(streams["grades"])
    else:
        grades = forced_grades(settings.severities, streams["grades"])
    patient = Patient(draw_body(streams["body"]), grades)
    plans = plan_study(patient, settings.scanners, settings.size, streams["protocol"], complete=settings.forced)
    return patient, plans


def study_streams(seed: int, split: Split, index: int) -> dict[str, np.random.Generator]:
    """Independent generators of one study, whatever the cohort's size."""
    children = np.random.SeedSequence([seed, 0 if split == "train" else 1, index]).spawn(len(_STREAMS))
    return {name: np.random.default_rng(child) for name, child in zip(_STREAMS, children, strict=True)}


def _identities(generator: np.random.Generator) -> tuple[int, list[int]]:
    """A study's and its series' numbers, as large as the real ones."""
    numbers = generator.integers(1_000_000, 2**32, size=9)
    return int(numbers[0]), [int(number) for number in numbers[1:]]


def _mapped(make: Any, jobs: list[tuple[Split, int]], workers: int) -> Iterator[StudyRecord]:
    if workers == 1:
        for job in jobs:
            yield make(job)
            stop_if_requested()
        return
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, initializer=_leave_ctrl_c_to_the_parent) as pool:
        try:
            with held():  # A pool whose start is broken off half way has processes that never end.
                records = pool.map(make, jobs)
            yield from records
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()  # The unfinished cohort is deleted.
            raise


def _leave_ctrl_c_to_the_parent() -> None:
    """Ctrl-C reaches every process of the terminal: the first one handles it, and its workers end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the handler of `held`, which a fork inherits


def _manifest(settings: CohortSettings, train: int, test: int) -> dict[str, Any]:
    severities = settings.severities
    return {
        "schema_version": SCHEMA_VERSION,
        "train": train,
        "test": test,
        "seed": settings.seed,
        "scanners": settings.scanners.value,
        "size": settings.size.value,
        "severities": None
        if severities is None
        else {site.key: severities[site].key for site in SITES if site in severities},
    }


def _is_there(root: Path, manifest: dict[str, Any]) -> bool:
    """Whether this very cohort has been written. Raises ValueError where something else has."""
    written = root / "phantom_truth" / "cohort.json"
    if written.is_file() and read_object(written, "python -m data_prep.phantom") == manifest:
        return True
    for name in ("dataset", "phantom_truth"):
        if (root / name).exists():
            raise ValueError(
                f"--root {str(root)!r} already holds another {name}/: give a new folder, or remove it first"
            )
    return False
