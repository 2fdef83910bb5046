"""Whether a run was trained on none of the studies that it is evaluated on.

``run.json`` says which folds were held out, and anyone can edit it. ``final/site_model.json`` says which studies and
series the weights learned from, those of the run's base and of its bases included. The two must agree.

Nothing here imports torch, so that a leak is refused before that import, which takes seconds.
"""

from pathlib import Path

from data_prep.conversion.pairs import Dataset
from data_prep.conversion.twin_studies import check_twins
from runs.run_record import RUN_RECORD, RunRecord
from vl_model.model.model_card import CARD
from workspace.json_files import read_object
from workspace.setting_error import SettingError

SERIES = "trained_series"


def check_held_out(run: Path, record: RunRecord, dataset: Dataset) -> None:
    """Check that the weights in the run's ``final/`` have seen no study of the held-out folds, nor a twin of one.

    Args:
        run: the run's folder.
        record: its ``run.json``.
        dataset: the data set that it was trained on.

    Raises SettingError if they have, or if ``final/`` and ``run.json`` are not of one training.
    """
    card = read_object(run / "final" / CARD, "train_vl.py")
    folds = sorted(record.held_out_folds)
    if (found := card.get("dataset_fingerprint", record.dataset_fingerprint)) != record.dataset_fingerprint:
        raise _refused(run, f"was trained on another data set ({str(found)[:12]}) than {RUN_RECORD} says")
    seen = _trained_studies(run, card, dataset)
    held_out = {study for study, fold in dataset.fold_of.items() if fold in folds}
    if leaking := seen & held_out:
        raise _refused(
            run,
            f"was trained on {len(leaking)} of the {len(held_out)} studies of the folds {folds} that {RUN_RECORD} says "
            "were held out",
        )
    if (stated := card.get("held_out_folds")) is not None and sorted(stated) != folds:
        raise _refused(run, f"was trained with the folds {sorted(stated)} held out, but {RUN_RECORD} says {folds}")
    check_twins(dataset.twins, dataset.fold_of, folds, "run", repr(run.name))


def _trained_studies(run: Path, card: dict[str, object], dataset: Dataset) -> set[int]:
    """Return the studies of the data set that the weights learned from: those of which a series was trained on."""
    trained = card.get(SERIES, {})
    try:
        series = {(int(study), number) for study, numbers in trained.items() for number in numbers}  # type: ignore[attr-defined]
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{run / 'final' / CARD}: {SERIES} is damaged ({error}); train the run again") from None
    return {pair.study_id for pair in dataset.pairs if (pair.study_id, pair.series_id) in series}


def _refused(run: Path, reason: str) -> SettingError:
    return SettingError(
        "run",
        f"{run.name!r}: its final/ {reason}: {RUN_RECORD} was edited, or final/ is another run's; restore them, or "
        "train the run again",
    )
