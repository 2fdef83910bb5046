"""Draw, scan and write the studies of a cohort, each from its own random streams, and write their tables."""

import json
import multiprocessing
import signal
from collections import deque
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
from data_prep.phantom.tables import WrittenStudy, read_study, write_tables, write_truth
from data_prep.sites import SITES, Severity, Site
from workspace.interrupts import held, stop_if_requested
from workspace.json_files import read_object
from workspace.layout import DataRoot, Split
from workspace.setting_error import SettingError
from workspace.tidying import discard_folder

SCHEMA_VERSION = 1

# Each part has its own random stream, so that a change in one part does not change the numbers of the others.
_STREAMS = ("identity", "grades", "body", "protocol", "reading", "noise")


@dataclass(frozen=True)
class CohortSettings:
    """The settings of a cohort.

    severities: true severities that every study gets; the sites that are not named are Normal/Mild.
    """

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
    """Write ``<root>/dataset`` and ``<root>/phantom_truth``; equal settings give identical files.

    Nothing is written if the same cohort already exists.

    Args:
        root: the data root.
        train: number of studies in the train split.
        test: number of studies in the test split.
        seed: seed of all random choices.
        scanners: family of scanners.
        size: size of the images.
        workers: number of processes.
        severities: if given, every study has exactly these severities (Normal/Mild at the sites that are not named),
            all series, all labels, and no label noise.
        progress: whether to show a progress bar.

    Returns:
        The data root.

    Raises:
        ValueError: if a number is impossible, or if another ``dataset`` exists.
        OSError: if the cohort cannot be written; nothing of it is left.
    """
    if train < 0 or test < 0 or train + test < 1:
        raise SettingError(
            "train", f"{train}, test {test}: at least one study is required, and no number may be negative"
        )
    if workers < 1:
        raise SettingError("workers", f"{workers}: at least one process is required")
    if seed < 0:
        raise SettingError("seed", f"{seed}: must not be negative")
    if (existing := next((path for path in (root, *root.parents) if path.exists()), root)) and not existing.is_dir():
        raise SettingError("root", f"{str(root)!r}: {existing} is a file; it should be a folder to write dataset/ in")
    settings = CohortSettings(seed, Scanners(scanners), Size(size), severities)
    manifest = _manifest(settings, train, test)
    final = DataRoot(Path(root))
    if _already_written(final.path, manifest):
        return final.path
    working = DataRoot(final.path / ".phantom_unfinished")
    discard_folder(working.path)
    counts: dict[Split, int] = {"train": train, "test": test}
    truth = working.path / "phantom_truth"
    try:
        for split, count in counts.items():
            if count:
                working.images(split).mkdir(parents=True)
        truth.mkdir()
        jobs = [(split, index) for split, count in counts.items() for index in range(count)]
        make = partial(write_study, working, settings)
        written = list(tqdm(_mapped(make, jobs, workers), total=len(jobs), unit="study", disable=not progress))
        if len({study.study_id for study in written}) < len(written):
            raise SettingError("seed", f"{seed}: two studies drew the same study id; choose another seed")
        write_tables(working.dataset, written)
        write_truth(truth / "truth.csv", written)
        (truth / "cohort.json").write_text(json.dumps(manifest, indent=1) + "\n")
        working.dataset.rename(final.dataset)
        truth.rename(final.path / "phantom_truth")
    except OSError as error:
        if error.filename is not None:
            raise
        # What pydicom writes to a full disk names no file; a traceback follows its first line.
        raise OSError(f"{final.path}: {error.strerror or str(error).splitlines()[0]}") from error
    finally:
        discard_folder(working.path)
    return final.path


def write_study(root: DataRoot, settings: CohortSettings, job: tuple[Split, int]) -> WrittenStudy:
    """Draw, scan and write one study; `job` is its split and its number in the split."""
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
    return WrittenStudy(
        study_id=study_id,
        split=split,
        series=tuple((series_id, plan.view) for series_id, plan in zip(series_ids, plans, strict=True)),
        grades=dict(patient.grades),
        positions_mm={site: tuple(map(float, patient.position_mm(site))) for site in SITES},  # type: ignore[misc]
        labels=labels,
        marks=marks,
    )


def draw_study(settings: CohortSettings, split: Split, index: int) -> tuple[Patient, tuple[SeriesPlan, ...]]:
    """Draw the patient and the series plans of a study, without rendering anything."""
    streams = study_streams(settings.seed, split, index)
    if settings.severities is None:
        grades = draw_grades(streams["grades"])
    else:
        grades = forced_grades(settings.severities, streams["grades"])
    patient = Patient(draw_body(streams["body"], settings.scanners is Scanners.VARIED), grades)
    plans = plan_study(patient, settings.scanners, settings.size, streams["protocol"], complete=settings.forced)
    return patient, plans


def study_streams(seed: int, split: Split, index: int) -> dict[str, np.random.Generator]:
    """Return the independent random generators of one study; they do not depend on the size of the cohort."""
    children = np.random.SeedSequence([seed, 0 if split == "train" else 1, index]).spawn(len(_STREAMS))
    return {name: np.random.default_rng(child) for name, child in zip(_STREAMS, children, strict=True)}


def _identities(generator: np.random.Generator) -> tuple[int, list[int]]:
    """Draw a study id and series ids of the same magnitude as the real ones."""
    numbers = generator.integers(1_000_000, 2**32, size=9)
    return int(numbers[0]), [int(number) for number in numbers[1:]]


def _mapped(make: Any, jobs: list[tuple[Split, int]], workers: int) -> Iterator[WrittenStudy]:
    if workers == 1:
        for job in jobs:
            yield make(job)
            stop_if_requested()
        return
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, initializer=_leave_ctrl_c_to_the_parent) as pool:
        try:
            with held():  # A pool whose start is broken off half way has processes that never end.
                # Not `pool.map`: it cancels its calls, and the pool's thread fails at these if processes are killed.
                waiting = deque(pool.submit(make, job) for job in jobs)
            while waiting:
                yield waiting.popleft().result()
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.kill()  # The unfinished cohort is deleted. SIGTERM would not end a suspended process.
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


def _already_written(root: Path, manifest: dict[str, Any]) -> bool:
    """Return whether this cohort exists. Raise ValueError if another one does."""
    written = root / "phantom_truth" / "cohort.json"
    if written.is_file() and read_object(written, "python -m data_prep.phantom") == manifest:
        return True
    for name in ("dataset", "phantom_truth"):
        if (root / name).exists():
            raise SettingError(
                "root", f"{str(root)!r}: already holds another {name}/; choose a new folder, or remove that one first"
            )
    return False
