"""Which studies a base was trained on: a run that holds some of them out would be measured on its base's lessons.

A run's ``final/`` says so in ``site_model.json``, an export of it in ``lumbar_vl.json`` beside the stock library's
files. A study is known by its id and that of a series of it, however it was converted: of two data sets whose studies
are numbered alike, one has not seen the other. What a base has seen, its descendants have seen too, so series add up
from base to base. Of runs from before they were recorded the data set's fingerprint and folds tell, as long as they are
still there.
"""

import json
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from data_prep.conversion.pairs import Dataset
from runs.launch import own_rank
from vl_model.data.site_rows import SiteRow
from vl_model.model.model_card import CARD
from vl_model.model.site_model import SCHEMA_VERSION
from vl_model.towers.model_names import folder_of, hub_repository
from workspace.json_files import read_object

EXPORT_RECORD = "lumbar_vl.json"
LINEAGE = "trained_on"
SERIES = "trained_series"
SeriesOf = dict[str, list[int]]
"""Ids of series by that of their study, which is a key in JSON."""
#: Of a run, what is told of it to those that start from its export: no paths.
FACTS = ("dataset_fingerprint", "held_out_folds", "steps", SERIES)


def base_folders(model: str, pretrained: str | None, asks_hub: bool = True) -> set[Path]:
    """Where the base's files lie, whether ``--model`` names their folder or ``--pretrained`` one of them.

    A link is in two folders: the hub's cache has a model's records beside links to its weights, people link elsewhere.
    """
    if pretrained and Path(pretrained).is_file():
        return {Path(pretrained).parent.resolve(), Path(pretrained).resolve().parent}
    folder = folder_of(model) or (_from_hub(model) if asks_hub else None)
    return set() if folder is None else {folder.resolve()}


@cache
def _from_hub(model: str) -> Path | None:
    """Where the record of a model on a hub lies on this machine, fetched if it can be; None where it has none.

    It is no part of the towers, so that loading those does not bring it. Where nobody can tell, the first process says.
    """
    repository = hub_repository(model)
    if repository is None:
        return None
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    from vl_model.model.hub import UNREACHABLE

    failures: tuple[type[BaseException], ...] = (*UNREACHABLE, EntryNotFoundError)
    is_known = True
    for name in (EXPORT_RECORD, CARD):
        try:
            return Path(hf_hub_download(repository, name)).parent
        except failures as error:
            is_absent = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
            is_known &= is_absent or try_to_load_from_cache(repository, name) is _CACHED_NO_EXIST
    if not is_known and own_rank() == 0:
        print(
            f"--model {model!r}: what it was trained on is not known, its {EXPORT_RECORD} is out of reach", flush=True
        )
    return None


def lineage(model: str, pretrained: str | None) -> list[dict[str, Any]]:
    """Of the base if it is a run's, of that run's own base, and so on: the facts of each that are known.

    Raises ValueError where a record is damaged.
    """
    return list(_lineage(model, pretrained, frozenset()))


def series_seen(model: str, pretrained: str | None, dataset: Dataset, training: Iterable[SiteRow]) -> SeriesOf:
    """Those that a run on these rows of the data set will have seen, with those of its base."""
    own = _series(dataset, {row.study_id for row in training})
    found: dict[str, list[int]] = defaultdict(list)
    for study_id, series_id in sorted(own | _seen(lineage(model, pretrained))):
        found[str(study_id)].append(series_id)
    return dict(found)


def write_lineage(folder: Path, final: Path) -> None:
    """Into an export's folder, of the run that has this ``final/``."""
    record = {"schema_version": SCHEMA_VERSION, LINEAGE: list(_lineage_of(final, frozenset()))}
    (folder / EXPORT_RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def check_base_is_elsewhere(model: str, pretrained: str | None, run: Path) -> None:
    """Raises ValueError where the base lies in the run's own folder, which the run would write over."""
    if any(base.is_relative_to(run.resolve()) for base in base_folders(model, pretrained)):
        named = _named(model, pretrained)
        raise ValueError(f"{named}: lies in the folder of run {run.name!r} itself; choose another --run")


def check_base_is_blind(model: str, pretrained: str | None, dataset: Dataset, held_out_folds: Iterable[int]) -> None:
    """Raises ValueError where the base is known to be trained on studies which are now held out."""
    wanted = set(held_out_folds)
    runs = lineage(model, pretrained)
    studies = {study_id for study_id, _ in _seen(runs) & _series(dataset, dataset.fold_of)}
    held_out = {study_id for study_id, fold in dataset.fold_of.items() if fold in wanted}
    if seen := studies & held_out:
        unseen = set(dataset.fold_of.values()) - {dataset.fold_of[study_id] for study_id in studies}
        remedy = f"hold out folds {sorted(unseen)}, which it has not seen, or choose" if unseen else "choose"
        raise ValueError(
            f"{_named(model, pretrained)}: was trained on {len(seen)} of the {len(held_out)} studies that "
            f"--held_out_folds {sorted(wanted)} wants unseen; {remedy} another base"
        )
    for run in runs:
        folds = wanted - set(run.get("held_out_folds", ()))
        if folds and run.get("steps") and SERIES not in run and run.get("dataset_fingerprint") == dataset.fingerprint:
            raise ValueError(
                f"{_named(model, pretrained)}: was trained on folds {sorted(folds)} of this data set, which "
                "--held_out_folds wants unseen; hold out the same folds, or choose another base"
            )


def _named(model: str, pretrained: str | None) -> str:
    return f"--pretrained {pretrained!r}" if pretrained and Path(pretrained).is_file() else f"--model {model!r}"


def _series(dataset: Dataset, studies: Container[int]) -> set[tuple[int, int]]:
    return {(pair.study_id, pair.series_id) for pair in dataset.pairs if pair.study_id in studies}


def _seen(runs: Iterable[dict[str, Any]]) -> set[tuple[int, int]]:
    """(study, series) of all of them."""
    return {
        (int(study_id), series_id) for run in runs for study_id, own in run.get(SERIES, {}).items() for series_id in own
    }


def _lineage(model: str, pretrained: str | None, known: frozenset[Path]) -> Iterator[dict[str, Any]]:
    # Of two runs, each may have been started again from the other.
    for folder in sorted(base_folders(model, pretrained) - known):
        if (folder / EXPORT_RECORD).is_file():
            yield from _read(folder / EXPORT_RECORD, LINEAGE)[LINEAGE]
        elif (folder / CARD).is_file():
            yield from _lineage_of(folder, known)


def _lineage_of(final: Path, known: frozenset[Path]) -> Iterator[dict[str, Any]]:
    card = _read(final / CARD, "model", "pretrained")
    yield {name: card[name] for name in FACTS if name in card}
    # Series add up from base to base: where they are told, a base that is not on this machine has no more to say.
    if SERIES not in card or base_folders(card["model"], card["pretrained"], asks_hub=False):
        yield from _lineage(card["model"], card["pretrained"], known | {final.resolve()})


def _read(path: Path, *needed: str) -> dict[str, Any]:
    record = read_object(path, "train_vl.py", SCHEMA_VERSION)
    if lacking := [name for name in needed if name not in record]:
        raise ValueError(f"{path}: does not say what it was trained on (no {lacking[0]!r}); choose another base")
    return record
