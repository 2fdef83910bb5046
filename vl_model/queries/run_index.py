"""The query index of a run: one segment per split and per kept set, made from embeddings and heads where it is missing.

A split's segment is in ``train/checkpoints/<run>/index/<split>/``, a kept set's in
``train/checkpoints/<run>/kept/<name>/index/``. Nothing here imports torch, pandas or scikit-learn if it is current.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from runs.run_record import final_files, read_run_record
from vl_model.calibration.study_answers import QUESTIONS
from vl_model.queries.buckets import SET_LEVEL
from vl_model.queries.fingerprints import Fingerprint, fingerprint_of
from vl_model.queries.index import (
    IndexRefused,
    Segment,
    build_segment,
    load_segment,
    read_manifest,
    save_segment,
    write_files,
)
from workspace.layout import SPLITS, DataRoot, Split
from workspace.setting_error import SettingError

if TYPE_CHECKING:
    from vl_model.evaluation.embeddings import Embeddings
    from vl_model.evaluation.grader import Grader

#: The parts of a segment's fingerprint in words, in the order in which they are named.
PARTS = {"data": "data set", "model": "model", "heads": "heads", "embeddings": "embeddings"}


@dataclass(frozen=True)
class SegmentFiles:
    """The folders of one segment.

    run: the folder of the run. processed: ``processed_data``, which the paths of its images are relative to.
    """

    run: Path
    name: str
    processed: Path
    embeddings: Path
    index: Path

    @property
    def is_kept(self) -> bool:
        """Whether its studies are new ones that were kept, not those of a split."""
        return self.name not in get_args(Split)

    @property
    def parts(self) -> dict[str, Sequence[Path]]:
        """The files that its fingerprint depends on."""
        return {
            "data": [self.processed / "dataset.json"],
            "model": final_files(self.run / "final"),
            "heads": [self.run / "heads" / name for name in ("heads.json", "heads.npz")],
            "embeddings": [
                self.embeddings / name for name in ("embeddings.json", "rows.json", "image.npy", "weights.npy")
            ],
        }


def kept_files(run: Path, name: str, folder: Path) -> SegmentFiles:
    """Return the folders of a kept set in `folder`."""
    return SegmentFiles(run, name, folder / "processed_data", folder / "embeddings", folder / "index")


def segment_files(root: DataRoot, run: str, name: str) -> SegmentFiles:
    """Return the folders of a split's or a kept set's segment. Raises SettingError if `name` can be neither."""
    folder = root.run(run)
    for split in SPLITS:
        if name == split:
            return SegmentFiles(
                folder, name, root.processed(split), folder / "embeddings" / name, folder / "index" / name
            )
    kept = root.kept(run, name, "split")
    if not kept.is_dir():
        there = _kept_sets(folder)
        names = f"the kept sets of run {run!r} are {', '.join(there)}" if there else f"run {run!r} has no kept set"
        raise SettingError("split", f"{name!r}: neither a split ({', '.join(SPLITS)}) nor a kept set; {names}")
    return kept_files(folder, name, kept)


def check_evaluated(root: DataRoot, run: str) -> None:
    """Raise ValueError if the run has no heads yet."""
    if not (root.run(run) / "heads" / "heads.json").is_file():
        raise SettingError("run", f"{run!r}: has no heads yet; run eval_vl.py first")


def available_segments(root: DataRoot, run: str) -> list[str]:
    """Return the splits that the run has embeddings of, then its kept sets. Raises ValueError if there is none."""
    folder = root.run(run)
    splits = [split for split in SPLITS if (folder / "embeddings" / split / "embeddings.json").is_file()]
    found = [*splits, *_kept_sets(folder)]
    if not found:
        raise SettingError("run", f"{run!r}: has no embeddings yet; run eval_vl.py first")
    return found


def _kept_sets(run: Path) -> list[str]:
    found = (run / "kept").glob("*/embeddings/embeddings.json")
    return sorted(path.parents[1].name for path in found if not path.parents[1].name.startswith("."))


def processed_of(root: DataRoot, run: str, name: str) -> Path:
    """Return the ``processed_data`` that the paths of a segment's images are relative to."""
    return segment_files(root, run, name).processed


def open_segment(root: DataRoot, run: str, name: str, say: Callable[[str], None]) -> Segment:
    """Return a segment; it is made and written if it is missing or not current.

    say: is told that it is made, and why. Raises ValueError if the run's embeddings or heads are missing, belong to
    another model or data set, or change meanwhile, or if the model was trained on a study that the run calls held out;
    SettingError if there is no segment of this name.
    """
    files = segment_files(root, run, name)
    known = _known(files.index)
    expected = _current(files, known)
    try:
        segment = load_segment(files.index, expected.digests)
    except IndexRefused as refused:
        say(_why(files, refused, known, expected))
        segment = _build(files, expected.digests)
        if _current(files, expected).digests != expected.digests:
            raise ValueError(
                f"run {run!r}: its files changed while the query index was made from them; ask again"
            ) from None
        try:
            save_segment(segment, files.index, expected.files)
        except OSError as error:  # a read-only run, a full disk, or another query that writes the same index
            say(f"the query index of {name!r} is not kept ({error.strerror or error})")
        return segment
    if expected.files != known.files:
        with suppress(OSError):
            write_files(files.index, expected.files)
    return segment


def make_segment(files: SegmentFiles) -> None:
    """Make and write the segment of a kept set."""
    expected = _current(files, Fingerprint())
    save_segment(_build(files, expected.digests), files.index, expected.files)


def _known(index: Path) -> Fingerprint:
    try:
        manifest = read_manifest(index)
    except IndexRefused:
        return Fingerprint()
    files = manifest.get("files")
    return Fingerprint(manifest["fingerprint"], files if isinstance(files, dict) else {})


def _current(files: SegmentFiles, known: Fingerprint) -> Fingerprint:
    try:
        return fingerprint_of(files.parts, known)
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename}: no such file; {_maker(files, Path(error.filename))} writes it") from None


def _maker(files: SegmentFiles, path: Path) -> str:
    """Return the command that writes a file of the segment's parts."""
    if path.is_relative_to(files.run / "final"):
        return "train_vl.py"
    if files.is_kept and path.is_relative_to(files.index.parent):
        return f"predict_vl.py --keep {files.name}"
    return "prepare_data.py" if path.name == "dataset.json" else "eval_vl.py"


def _why(files: SegmentFiles, refused: IndexRefused, known: Fingerprint, expected: Fingerprint) -> str:
    if not files.index.exists():
        return f"making the query index of {files.name!r}, for the first time"
    changed = [words for part, words in PARTS.items() if known.digests.get(part, "") != expected.digests[part]]
    reason = f"the {' and the '.join(changed)} changed" if known.digests and changed else refused.reason
    return f"making the query index of {files.name!r} again: {reason}"


def _build(files: SegmentFiles, digests: Mapping[str, str]) -> Segment:
    # These import scikit-learn, which takes seconds and is not required if the index is current.
    from data_prep.conversion.pairs import read_dataset
    from vl_model.evaluation.embeddings import read_embeddings
    from vl_model.evaluation.grader import read_grader
    from vl_model.model.held_out_check import check_held_out

    dataset, record = read_dataset(files.processed), read_run_record(files.run)
    if files.name == "train" and dataset.fingerprint != record.dataset_fingerprint:
        raise SettingError(
            "run",
            f"{files.run.name!r}: was trained on another data set than the one in {files.processed}, whose folds may "
            "be others, so that it is not known which studies it was trained on; train a new run on it",
        )
    if files.name == "train":
        check_held_out(files.run, record, dataset)
    expected = {"checkpoint": digests["model"], "dataset": dataset.fingerprint}
    try:
        embeddings = read_embeddings(files.embeddings, expected)
    except ValueError as error:
        if not files.is_kept:
            raise
        raise ValueError(
            f"{files.name!r}: the embeddings of these new studies cannot be used ({error}); run "
            f"predict_vl.py --keep {files.name} --overwrite again"
        ) from error
    grader = read_grader(files.run / "heads", {"checkpoint": digests["model"], "dataset": record.dataset_fingerprint})
    prob_N3 = grader.predict_proba(embeddings.table, [embeddings], "calibrated")
    seen = [] if files.is_kept else [s for s, fold in dataset.fold_of.items() if fold not in record.held_out_folds]
    return build_segment(
        name=files.name,
        study_ids=dataset.study_ids,
        keys=[(row.study_id, row.site) for row in embeddings.rows],
        image_ND=embeddings.image_ND,
        prob_N3=prob_N3,
        weight_NV=embeddings.weight_NV,
        pairs=dataset.pairs,
        seen_studies=seen,
        fingerprint=digests,
        set_N=grader.prediction_sets(embeddings.table, [embeddings], prob_N3, SET_LEVEL),
        answers_of=_study_answers(grader, dataset.study_ids, embeddings),
        typicality_of={} if files.name == "train" else _typicality(grader, dataset.study_ids, embeddings),
    )


def _study_answers(grader: "Grader", study_ids: Sequence[int], embeddings: "Embeddings") -> dict[int, list[float]]:
    """Return the probability of each question about each study, as ``studies.csv`` of predict_vl.py has it.

    All 25 sites of a study are asked, also those that no image shows.
    """
    from vl_model.data.site_table import full_table, site_table

    table = full_table(sorted(study_ids), site_table([]))
    prob_N3 = grader.predict_proba(table, [embeddings], "calibrated")
    found = [grader.answers.predict(question, prob_N3, table)[1].tolist() for question in QUESTIONS]
    return dict(zip(sorted(study_ids), map(list, zip(*found, strict=True)), strict=True))


def _typicality(grader: "Grader", study_ids: Sequence[int], embeddings: "Embeddings") -> dict[int, float]:
    """Return the typicality of new studies.

    Those of the train split were learned from, or are what new studies are compared with.
    """
    return dict(zip(study_ids, grader.typicality_of(study_ids, [embeddings]).tolist(), strict=True))
