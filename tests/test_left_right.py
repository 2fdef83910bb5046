"""Left stays left: disease on one side only, followed through sites.csv, the crops and dataset.json.

The same patients are made twice, once healthy and once with severe disease on one side; whatever
differs between the two is the disease. Sagittal series of both slice orders are among them.
"""

import csv
from pathlib import Path

import numpy as np
import pytest

from data_prep.cohorts import split_cohort
from data_prep.convert import convert_cohort, learn_from
from data_prep.crops import open_crops
from data_prep.layout import DataRoot
from data_prep.pairs import Dataset, read_dataset
from data_prep.phantom import write_cohort
from data_prep.sites import SITES, Severity, Side, View
from prompts.render import caption

STUDIES, SEED = 2, 2


def prepared(folder: Path, side: Side | None) -> Path:
    """A cohort whose sites on `side` are all severe, and nothing else is."""
    severities = {site: Severity.SEVERE for site in SITES if side is not None and site.side is side}
    cohort = split_cohort(DataRoot(write_cohort(folder, STUDIES, 0, SEED, severities=severities)), "train")
    processed = folder / "train" / "processed_data"
    convert_cohort(cohort, processed, atlas=learn_from(cohort), caption=caption, folds=2)
    return processed


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("healthy"), None)


@pytest.fixture(scope="module", params=[Side.LEFT, Side.RIGHT])
def diseased(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Side, Path]:
    return request.param, prepared(tmp_path_factory.mktemp(request.param.value), request.param)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_both_slice_orders_are_among_the_studies(healthy: Path) -> None:
    series: dict[str, list[tuple[int, float]]] = {}
    for row in rows(healthy / "slices.csv"):
        if row["view"] == View.SAGITTAL_T1:
            place = (int(row["instance_number"]), float(row["position_x_mm"]))
            series.setdefault(row["series_id"], []).append(place)
    grows = [sorted(places)[0][1] < sorted(places)[-1][1] for places in series.values()]
    assert set(grows) == {True, False}


def test_the_left_lies_at_greater_x(diseased: tuple[Side, Path]) -> None:
    places = {
        (row["study_id"], row["condition"], row["level"], row["side"]): float(row["x_mm"])
        for row in rows(diseased[1] / "sites.csv")
    }
    lefts = [key for key in places if key[3] == "left"]
    assert len(lefts) == STUDIES * 10
    for key in lefts:
        assert places[key] > places[(*key[:3], "right")] + 5


def test_labels_and_texts_name_the_diseased_side(diseased: tuple[Side, Path]) -> None:
    side, processed = diseased
    pairs = read_dataset(processed).pairs
    assert len(pairs) > 40 * STUDIES
    for pair in pairs:
        severe = pair.site.side is side
        assert pair.severity is (Severity.SEVERE if severe else Severity.NORMAL_MILD)
        assert pair.text.endswith("severe" if severe else "normal or mild")
        assert pair.site.side is None or f" {pair.site.side} " in pair.text


def test_the_disease_is_seen_in_that_sides_crops(healthy: Path, diseased: tuple[Side, Path]) -> None:
    side, processed = diseased

    def tiles(folder: Path) -> tuple[Dataset, np.ndarray]:
        return read_dataset(folder), open_crops(folder)[:, :, 44:84, 44:84].astype(float)  # the middle 20 mm

    (before, calm), (after, ill) = tiles(healthy), tiles(processed)
    assert [(p.study_id, p.site, p.view) for p in before.pairs] == [(p.study_id, p.site, p.view) for p in after.pairs]
    changes: dict[Side, list[float]] = {Side.LEFT: [], Side.RIGHT: []}
    for pair, change in zip(before.pairs, np.abs(calm - ill).mean(axis=(1, 2, 3)), strict=True):
        if pair.site.side is not None and pair.view is pair.site.views[0]:
            changes[pair.site.side].append(float(change))
    assert np.median(changes[side]) > 2 * np.median(changes[side.other])
