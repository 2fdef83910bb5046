"""data_prep/conversion/pairs.py and folds.py: writing, reading and checking dataset.json; balanced folds."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.conversion.folds import assign_folds
from data_prep.conversion.pairs import Pair, count_sites, read_dataset, train_row, write_dataset
from data_prep.sites import SITES, Severity, Site, Source, View

PAIR = Pair(
    study_id=1,
    site=SITES[7],
    view=View.SAGITTAL_T1,
    series_id=2,
    instance_number=3,
    instance_numbers=(2, 3, 4),
    image="images/1/2/3.png",
    box=(1.0, 2.5, 30.0, 40.0),
    text="a caption",
    severity=Severity.SEVERE,
    source=Source.ANNOTATED,
    fold=4,
    crop=0,
)
CANAL = replace(PAIR, site=SITES[0], view=View.AXIAL_T2, severity=None, fold=None, source=Source.ATLAS, crop=1)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"study_ids": [1, 2], "split": "train", "folds": {"of_study": {}}}, [PAIR, CANAL], "crops")
    dataset = read_dataset(tmp_path)
    assert dataset.pairs == (PAIR, CANAL) and dataset.study_ids == (1, 2)
    entries = json.loads((tmp_path / "dataset.json").read_text())["pairs"]
    assert entries[0]["severity"] == "severe" and entries[0]["side"] == "left" and entries[0]["fold"] == 4
    assert entries[1]["severity"] is entries[1]["side"] is entries[1]["fold"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]


def test_the_fingerprint_is_of_pairs_and_crops(tmp_path: Path) -> None:
    def fingerprint(pairs: list[Pair], crops: str) -> str:
        write_dataset(tmp_path, {"study_ids": [], "folds": {"of_study": {}}}, pairs, crops)
        return read_dataset(tmp_path).fingerprint

    first = fingerprint([PAIR], "a")
    assert first == fingerprint([PAIR], "a")
    assert len({first, fingerprint([PAIR], "b"), fingerprint([PAIR, CANAL], "a")}) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"metadata": {"schema_version": 99}, "pairs": []}', "schema version 99"),
        ('{"metadata": {"schema_version": 1}, "pairs": [{"study_id": 1}]}', "an entry is missing or invalid"),
    ],
)
def test_a_damaged_dataset_is_refused_in_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_dataset(tmp_path)
    assert "\n" not in str(caught.value)


def test_rows_of_the_train_table() -> None:
    image = "images/1/2/3.png"
    words = ("neural_foraminal_narrowing", "left", "l3_l4", "severe", "a caption", "sagittal_t1", 4, image)
    assert train_row(PAIR) == (image, 1, 2, 3, *words)
    assert train_row(CANAL)[5] == train_row(CANAL)[7] == train_row(CANAL)[10] == ""


def test_sites_are_counted_once_whatever_their_views() -> None:
    counts = count_sites([PAIR, replace(PAIR, view=View.AXIAL_T2), CANAL])
    assert counts == {
        "left_neural_foraminal_narrowing": {"l3_l4": {"severe": 1}},
        "spinal_canal_stenosis": {"l1_l2": {"unlabelled": 1}},
    }


def cohort(studies: int, seed: int = 0) -> dict[int, dict[Site, Severity]]:
    """Return labels that are correlated, unbalanced and partly missing, as those of the real data set."""
    random = np.random.default_rng(seed)
    severities = {}
    for study in range(studies):
        burden = random.normal()
        grades = {site: Severity(int(np.digitize(burden + random.normal(), [1.2, 2.2]))) for site in SITES}
        severities[1000 + study] = {site: grade for site, grade in grades.items() if random.random() > 0.05}
    return severities


def test_folds_are_balanced_in_every_label() -> None:
    severities = cohort(400)
    fold_of = assign_folds(severities, 5, seed=0)
    assert set(fold_of) == set(severities) and set(fold_of.values()) == set(range(5))
    sizes = Counter(fold_of.values())
    assert max(sizes.values()) - min(sizes.values()) <= 6

    def imbalance(folds: dict[int, int]) -> float:
        """Return the root mean square difference of a fold's count of a moderate or severe label from a fifth."""
        counts = np.zeros((5, 25, 3))
        for study, grades in severities.items():
            for site, grade in grades.items():
                counts[folds[study], SITES.index(site), grade] += 1
        return float(np.sqrt(np.mean((counts - counts.mean(axis=0))[..., 1:] ** 2)))

    random = np.random.default_rng(1)
    shuffled = {study: int(fold) for study, fold in zip(severities, random.permutation(400) % 5, strict=True)}
    assert imbalance(fold_of) < 0.6 * imbalance(shuffled)
    rare = [study for study, grades in severities.items() if grades.get(SITES[0]) is Severity.SEVERE]
    per_fold = Counter(fold_of[study] for study in rare)
    assert max(per_fold.values()) - min(per_fold[fold] for fold in range(5)) <= 2


def test_folds_depend_on_the_seed_and_on_nothing_else() -> None:
    severities = cohort(60)
    folds = assign_folds(severities, 5, seed=3)
    assert folds == assign_folds(dict(reversed(severities.items())), 5, seed=3)
    assert folds != assign_folds(severities, 5, seed=4)


def test_few_or_unlabelled_studies_still_get_folds() -> None:
    assert sorted(assign_folds({1: {}, 2: {}, 3: {}}, 3, seed=0).values()) == [0, 1, 2]
    assert len(assign_folds({1: {}}, 5, seed=0)) == 1
    with pytest.raises(ValueError, match="folds 1: at least 2"):
        assign_folds({1: {}}, 1, seed=0)
