"""Lineage: the studies that a base, and the bases that it started from, were trained on.

Holding out studies that the base was trained on would be leakage. A run's ``final/`` records its training studies in
``site_model.json``, an export in ``lumbar_vl.json`` beside the stock library's files. A study is identified by its id
together with the ids of its series, however it was converted, so that two data sets which number their studies alike
are not confused. The studies of a base count for every run that starts from it, so the series add up from base to base.
Old runs did not record series. For them, the data set's fingerprint and folds are compared instead, as long as their
folders exist.
"""

import json
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from data_prep.conversion.pairs import Dataset
from runs.processes.launch import own_rank
from vl_model.data.site_rows import SiteRow
from vl_model.model.base_places import is_there, place_beside
from vl_model.model.model_card import CARD
from vl_model.model.run_crops import CROPS
from vl_model.model.settings import ModelSettings
from vl_model.model.site_model_files import SCHEMA_VERSION
from vl_model.towers.model_names import hub_repository, model_folder
from workspace.json_files import read_object
from workspace.setting_error import SettingError

EXPORT_RECORD = "lumbar_vl.json"
LINEAGE = "trained_on"
SERIES = "trained_series"
#: Ids of series by study id, which is a string because it is a key in JSON.
SeriesByStudy = dict[str, list[int]]
#: The entries of ``site_model.json`` that an export repeats. None of them contains a path.
FACTS = ("dataset_fingerprint", "held_out_folds", "steps", SERIES, CROPS)


def base_folders(model: str, pretrained: str | None, uses_hub: bool = True) -> set[Path]:
    """Return the folders with the base's files, whether `model` names the folder or `pretrained` one of the files.

    If `pretrained` is a link, both its folder and that of its target count: the hub's cache has a model's record beside
    links to its weights, while a user's own link may lead to a folder with a record.
    """
    if pretrained and Path(pretrained).is_file():
        return {Path(pretrained).parent.resolve(), Path(pretrained).resolve().parent}
    folder = model_folder(model) or (_from_hub(model) if uses_hub else None)
    return set() if folder is None else {folder.resolve()}


@cache
def _from_hub(model: str) -> Path | None:
    """Return the local folder of a hub model's record, which is downloaded if possible; None if there is no record.

    Loading the towers does not download the record, since it is not one of their files. If the hub cannot be reached
    and the cache does not settle whether there is a record, the first process prints a line.
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
            f"model {model!r}: the studies that it was trained on are unknown, since the hub's {EXPORT_RECORD} cannot "
            "be read",
            flush=True,
        )
    return None


def lineage(model: str, pretrained: str | None) -> list[dict[str, Any]]:
    """Return the recorded facts of the base, if it is a run, of that run's own base, and so on.

    Raises ValueError if a record is damaged.
    """
    return list(_lineage(model, pretrained, frozenset()))


def trained_series(model: str, pretrained: str | None, dataset: Dataset, training: Iterable[SiteRow]) -> SeriesByStudy:
    """Return the series that a run on these rows of the data set is trained on, including those of its base."""
    own = _series(dataset, {row.study_id for row in training})
    found: dict[str, list[int]] = defaultdict(list)
    for study_id, series_id in sorted(own | _recorded_series(lineage(model, pretrained))):
        found[str(study_id)].append(series_id)
    return dict(found)


def write_lineage(folder: Path, final: Path, base: ModelSettings) -> None:
    """Write the lineage of the run with this ``final/`` into the folder of its export.

    base: the settings that name the run's base at the place where it was found.
    """
    record = {"schema_version": SCHEMA_VERSION, LINEAGE: list(_lineage_of(final, frozenset(), base))}
    (folder / EXPORT_RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def check_base_outside_run(model: str, pretrained: str | None, run: Path) -> None:
    """Check that the base is not in the run's own folder, which the run would overwrite; raises ValueError."""
    if any(base.is_relative_to(run.resolve()) for base in base_folders(model, pretrained)):
        setting, value = _setting(model, pretrained)
        raise SettingError(
            setting, f"{value!r}: is in the folder of run {run.name!r} itself; choose another name for the run"
        )


def check_leakage(model: str, pretrained: str | None, dataset: Dataset, held_out_folds: Iterable[int]) -> None:
    """Check that no held-out study is known as one that the base was trained on; raises ValueError."""
    held_out_folds = set(held_out_folds)
    runs = lineage(model, pretrained)
    trained_on = {study_id for study_id, _ in _recorded_series(runs) & _series(dataset, dataset.fold_of)}
    held_out = {study_id for study_id, fold in dataset.fold_of.items() if fold in held_out_folds}
    if leaking := trained_on & held_out:
        safe = set(dataset.fold_of.values()) - {dataset.fold_of[study_id] for study_id in trained_on}
        remedy = f"hold out folds {sorted(safe)}, which it was not trained on, or choose" if safe else "choose"
        setting, value = _setting(model, pretrained)
        raise SettingError(
            setting,
            f"{value!r}: was trained on {len(leaking)} of the {len(held_out)} studies of the held-out folds "
            f"{sorted(held_out_folds)}; {remedy} another base",
        )
    for run in runs:
        folds = held_out_folds - set(run.get("held_out_folds", ()))
        if folds and run.get("steps") and SERIES not in run and run.get("dataset_fingerprint") == dataset.fingerprint:
            setting, value = _setting(model, pretrained)
            raise SettingError(
                setting,
                f"{value!r}: was trained on folds {sorted(folds)} of this data set, which are to be held out; hold out "
                "the same folds as the base, or choose another base",
            )


def _setting(model: str, pretrained: str | None) -> tuple[str, str]:
    """Return the setting that names the base's weights, and its value."""
    return ("pretrained", pretrained) if pretrained and Path(pretrained).is_file() else ("model", model)


def _series(dataset: Dataset, studies: Container[int]) -> set[tuple[int, int]]:
    return {(pair.study_id, pair.series_id) for pair in dataset.pairs if pair.study_id in studies}


def _recorded_series(runs: Iterable[dict[str, Any]]) -> set[tuple[int, int]]:
    """Return (study id, series id) of all series that any of the runs was trained on."""
    return {
        (int(study_id), series_id) for run in runs for study_id, own in run.get(SERIES, {}).items() for series_id in own
    }


def _lineage(model: str, pretrained: str | None, visited: frozenset[Path]) -> Iterator[dict[str, Any]]:
    # Two runs that were trained again may each have started from the other, so visited folders are skipped.
    for folder in sorted(base_folders(model, pretrained) - visited):
        if (folder / EXPORT_RECORD).is_file():
            yield from _read(folder / EXPORT_RECORD, LINEAGE)[LINEAGE]
        elif (folder / CARD).is_file():
            yield from _lineage_of(folder, visited)


def _lineage_of(final: Path, visited: frozenset[Path], base: ModelSettings | None = None) -> Iterator[dict[str, Any]]:
    card = _read(final / CARD, "model", "pretrained")
    yield {name: card[name] for name in FACTS if name in card}
    if base is None or not is_there(base):
        # The weights are not read here. A wrong folder would only add studies, which refuses more than is needed.
        base = place_beside(ModelSettings(card["model"], card["pretrained"]), final)
    # A card with series includes those of its base, so a base that is only on the hub need not be looked up.
    if SERIES not in card or base_folders(base.model, base.pretrained, uses_hub=False):
        yield from _lineage(base.model, base.pretrained, visited | {final.resolve()})


def _read(path: Path, *required: str) -> dict[str, Any]:
    record = read_object(path, "train_vl.py", SCHEMA_VERSION)
    if missing := [name for name in required if name not in record]:
        raise ValueError(f"{path}: the record of what it was trained on lacks {missing[0]!r}; choose another base")
    return record
