"""The typicality of studies, against a slow version and against what its definition promises."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf_shrinkage

from data_prep.sites import SITES, Condition, Severity
from tests.vl_model.queries.indexed_run import write_indexed_root
from vl_model.data.site_table import CONDITION_OF_SITE, SiteTable, full_table, site_table
from vl_model.evaluation.embeddings import read_embeddings
from vl_model.evaluation.grader import read_grader, write_grader
from vl_model.evaluation.typicality import ATYPICAL, SIGNIFICANT, Typicality, learn_typicality, typicality_sentence

DIMENSIONS = 6


def studies(first: int, count: int, seed: int, scale: float = 1.0) -> tuple[SiteTable, NDArray[np.float32]]:
    """Return studies with correlated embeddings around a mean of each condition."""
    table = full_table(range(first, first + count), site_table([]))
    random = np.random.default_rng(seed)
    mixing_DD = np.random.default_rng(0).normal(size=(DIMENSIONS, DIMENSIONS))
    mean_KD = np.random.default_rng(1).normal(size=(len(Condition), DIMENSIONS))
    noise_ND = scale * random.normal(size=(len(table), DIMENSIONS)) @ mixing_DD
    return table, (mean_KD[table.condition_N] + noise_ND).astype(np.float32)


def learn(train_count: int = 60, held_out_count: int = 200) -> Typicality:
    typicality = learn_typicality(*studies(0, train_count, 2), *studies(1000, held_out_count, 3))
    assert typicality is not None
    return typicality


def test_distances_and_typicality_equal_a_slow_version() -> None:
    train, train_ND = studies(0, 60, 2)
    held_out, held_out_MD = studies(1000, 40, 3)
    typicality = learn_typicality(train, train_ND, held_out, held_out_MD)
    assert typicality is not None
    mean_KD = np.array([train_ND[train.condition_N == k].mean(axis=0) for k in range(len(Condition))])
    residual_ND = train_ND - mean_KD[train.condition_N]
    covariance_DD, shrunk = residual_ND.T @ residual_ND / len(train), ledoit_wolf_shrinkage(residual_ND, True)
    sphere_DD = np.trace(covariance_DD) / DIMENSIONS * np.eye(DIMENSIONS)
    inverse_DD = np.linalg.inv((1 - shrunk) * covariance_DD + shrunk * sphere_DD)

    def distance(study: int, table: SiteTable, image_ND: NDArray[np.float32]) -> float:
        values = []
        for site, image_D in zip(table.site_N[table.study_N == study], image_ND[table.study_N == study], strict=True):
            from_mean_D = image_D - mean_KD[CONDITION_OF_SITE[site]]
            values.append(float(from_mean_D @ inverse_DD @ from_mean_D) ** 0.5)
        return sum(values) / len(values)

    new, new_ND = studies(5000, 7, 4, scale=1.2)
    found, distance_S = typicality.distances(new, new_ND)
    slow = [distance(study, new, new_ND) for study in new.study_ids]
    assert found.tolist() == new.study_ids
    np.testing.assert_allclose(distance_S, slow, rtol=1e-4)
    reference = [distance(study, held_out, held_out_MD) for study in held_out.study_ids]
    expected = [(1 + sum(other >= one for other in reference)) / 41 for one in slow]
    assert typicality.of_distances(distance_S).tolist() == expected


def test_a_study_as_far_as_a_held_out_one_counts_it() -> None:
    distance_S = np.array([1.0, 2.0, 2.0, 3.0])
    typicality = Typicality(np.zeros((3, 1)), np.eye(1), distance_S)
    assert typicality.of_distances(np.array([0.5, 1.0, 2.0, 2.5, 3.0, 3.5])).tolist() == [
        1,
        1,
        4 / 5,
        2 / 5,
        2 / 5,
        1 / 5,
    ]


def test_studies_of_the_same_kind_are_atypical_as_often_as_promised() -> None:
    """Over many draws of the held-out and of the new studies; of 39, two out of 40 places are atypical."""
    random = np.random.default_rng(0)
    shares = []
    for _ in range(4000):
        typicality = Typicality(np.zeros((3, 1)), np.eye(1), np.sort(random.normal(size=39)))
        shares.append((typicality.of_distances(random.normal(size=20)) <= ATYPICAL).mean())
    assert np.mean(shares) == pytest.approx(ATYPICAL, abs=0.004)


@pytest.mark.parametrize(("held_out", "new"), [(20, 200), (80, 30), (400, 1000)])
def test_studies_of_the_same_kind_are_seldom_told_to_be_of_another(held_out: int, new: int) -> None:
    """The new studies share the held-out ones: taken for independent, 200 of them are told in 16 % of cohorts of 20."""
    random = np.random.default_rng(0)
    told = 0
    for _ in range(2000):
        typicality = Typicality(np.zeros((3, 1)), np.eye(1), np.sort(random.normal(size=held_out)))
        told += "may not hold" in typicality_sentence(typicality.of_distances(random.normal(size=new)), held_out)
    assert told / 2000 <= SIGNIFICANT + 0.007


def test_studies_of_another_kind_are_told() -> None:
    typicality = learn()
    _, distance_S = typicality.distances(*studies(9000, 3, 5, scale=3))
    typicality_S = typicality.of_distances(distance_S)
    assert typicality_S.tolist() == pytest.approx([1 / 201] * 3) and ATYPICAL >= 1 / 201
    assert typicality_sentence(typicality_S, 200) == (
        "3 of 3 studies have less typical images than 95 % of the held-out studies (at most 5 % are expected): what "
        "was measured on the held-out studies may not hold for studies with such images"
    )


def test_one_atypical_study_alone_is_no_proof() -> None:
    assert typicality_sentence(np.array([ATYPICAL, np.nan]), 39) == (
        "1 of 1 studies has less typical images than 95 % of the held-out studies (at most 5 % are expected)"
    )
    assert typicality_sentence(np.array([0.06, 0.9]), 39).startswith("0 of 2 studies have less")
    assert typicality_sentence(np.array([np.nan]), 39) == typicality_sentence(np.array([]), 39) == ""


def test_sites_of_a_condition_that_no_training_site_has_are_left_out() -> None:
    train, train_ND = studies(0, 60, 2)
    foraminal = train.condition_N == 1
    typicality = learn_typicality(train.take(foraminal), train_ND[foraminal], *studies(1000, 40, 3))
    assert typicality is not None
    new, new_ND = studies(5000, 2, 4)
    shown = new.condition_N == 1
    found, distance_S = typicality.distances(new, new_ND)
    np.testing.assert_array_equal(distance_S, typicality.distances(new.take(shown), new_ND[shown])[1])
    only_canal = site_table([(7, SITES[0], Severity.SEVERE)])
    assert len(typicality.distances(only_canal, np.ones((1, DIMENSIONS), dtype=np.float32))[0]) == 0
    assert found.tolist() == [5000, 5001]


@pytest.mark.parametrize(
    ("train", "held_out", "told"), [(1, 40, False), (2, 40, True), (60, 18, False), (60, 19, True)]
)
def test_too_few_studies_tell_nothing(train: int, held_out: int, told: bool) -> None:
    """A study has 25 sites."""
    assert (learn_typicality(*studies(0, train, 2), *studies(1000, held_out, 3)) is not None) == told


def test_embeddings_that_do_not_vary_or_only_in_one_direction_end_nothing() -> None:
    table, image_ND = studies(0, 60, 2)
    held_out = studies(1000, 40, 3)
    assert learn_typicality(table, np.ones_like(image_ND), *held_out) is None
    along_one = np.zeros_like(image_ND)
    along_one[:, 0] = np.where(np.arange(len(table)) % 2, 1, -1)
    learned = learn_typicality(table, along_one, *held_out)
    assert learned is None or np.isfinite(learned.held_out_S).all()


def test_what_is_saved_tells_the_same() -> None:
    typicality = learn()
    read = Typicality.from_arrays(typicality.arrays())
    new = studies(9000, 50, 5)
    np.testing.assert_array_equal(read.distances(*new)[1], typicality.distances(*new)[1])
    np.testing.assert_array_equal(read.held_out_S, typicality.held_out_S)


def test_joined_runs_tell_the_mean_over_their_models(tmp_path: Path) -> None:
    """Saved and read again; a study that one of the models cannot tell of is not told."""
    run = write_indexed_root(tmp_path)
    embeddings = read_embeddings(run / "embeddings" / "train", {})
    alone = read_grader(run / "heads")
    [heads] = alone.models.values()
    mean_KD = np.zeros((3, 6))
    blind_KD = np.where(np.arange(3)[:, None] == 0, mean_KD, np.nan)  # knows canal sites alone
    near, far = (
        Typicality(mean_KD, np.eye(6), np.sort(np.r_[np.full(15, low), np.full(15, 9.0)])) for low in (0.5, 2.0)
    )
    blind = Typicality(blind_KD, np.eye(6), far.held_out_S)
    studies, own = embeddings.table.study_ids, [embeddings, embeddings]
    for second, expected in ((far, (16 / 31 + 1) / 2), (near, 16 / 31)):
        joined = replace(alone, models={"a-0": heads, "a-1": heads}, typicality={"a-0": near, "a-1": second})
        write_grader(tmp_path / "heads", joined)
        read = read_grader(tmp_path / "heads")
        assert read.typicality_of(studies, own).tolist() == pytest.approx([expected] * len(studies))
        assert read.compared_studies == 30
    lacking = replace(joined, typicality={"a-0": near})
    assert np.isnan(lacking.typicality_of(studies, own)).all()
    partly = replace(joined, typicality={"a-0": near, "a-1": blind})
    foraminal = replace(
        embeddings,
        rows=tuple(row for row in embeddings.rows if row.site.condition is Condition.NEURAL_FORAMINAL_NARROWING),
        image_ND=embeddings.image_ND[embeddings.table.condition_N == 1],
        weight_NV=None,
    )
    assert np.isnan(partly.typicality_of(studies, [foraminal, foraminal])).all()
    assert np.isfinite(near.of_distances(near.distances(foraminal.table, foraminal.image_ND)[1])).all()
