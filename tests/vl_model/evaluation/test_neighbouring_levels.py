"""Grades from neighbouring levels, against a slow version, and the weight that is learned."""

import math

import numpy as np
import pytest

from data_prep.sites import SITES, Level, Severity
from vl_model.data.site_table import SITE_INDEX, full_table, site_table
from vl_model.evaluation.neighbouring_levels import NeighbouringLevels

LEVELS = list(Level)


def slow(prob_N3: np.ndarray, imaged_N: np.ndarray, prior_X3: np.ndarray, weight: float, study: int, site: int) -> list:
    """Return the probabilities of one site of one study, by loops."""
    own = SITES[site]
    deviations = []
    for other in SITES:
        beside = abs(LEVELS.index(other.level) - LEVELS.index(own.level)) == 1
        row = study * 25 + SITE_INDEX[other]
        if beside and (other.condition, other.side) == (own.condition, own.side) and imaged_N[row]:
            prior = prior_X3[SITE_INDEX[other]]
            deviations.append(
                [math.log(prob_N3[row][c] / prob_N3[row][0]) - math.log(prior[c] / prior[0]) for c in (1, 2)]
            )
    logits = [math.log(prior_X3[site][c] / prior_X3[site][0]) for c in (1, 2)]
    for number in (0, 1):
        if deviations:
            logits[number] += weight * sum(one[number] for one in deviations) / len(deviations)
    weights = [1.0, *(math.exp(logit) for logit in logits)]
    return [one / sum(weights) for one in weights]


def test_probabilities_equal_those_by_loops() -> None:
    generator = np.random.default_rng(1)
    table = full_table([5, 2, 9], site_table([]))
    prob_N3 = generator.dirichlet((3, 1, 1), len(table))
    prior_X3 = generator.dirichlet((5, 2, 1), len(SITES))
    imaged_N = generator.random(len(table)) < 0.6
    levels = NeighbouringLevels.from_list([0.4, 0.4, 0.4])
    found_N3 = levels.predict_proba(prob_N3, imaged_N, prior_X3, table)
    speaks_N = levels.speaks_for(imaged_N, table)
    for row in range(len(table)):
        expected = slow(prob_N3, imaged_N, prior_X3, 0.4, row // 25, row % 25)
        assert found_N3[row] == pytest.approx(expected)
        assert speaks_N[row] or found_N3[row] == pytest.approx(prior_X3[row % 25])
    assert 0 < speaks_N.sum() < len(table)
    assert not NeighbouringLevels.from_list(None).speaks_for(imaged_N, table).any()


def test_levels_that_go_together_get_a_weight_and_independent_ones_none() -> None:
    generator = np.random.default_rng(2)
    studies = range(200)
    prior_X3 = np.tile([0.7, 0.2, 0.1], (len(SITES), 1))
    imaged_N = np.ones(25 * len(studies), dtype=bool)

    def weights(is_shared: bool) -> list[float]:
        known, prob_N3 = [], []
        for study in studies:
            shared = generator.choice(3, p=[0.7, 0.2, 0.1])
            for site in SITES:
                grade = shared if is_shared else generator.choice(3, p=[0.7, 0.2, 0.1])
                known.append((study, site, Severity(int(grade))))
                prob_N3.append(np.where(np.arange(3) == grade, 0.8, 0.1))
        table = full_table(studies, site_table(known))
        return NeighbouringLevels().fit(np.array(prob_N3), imaged_N, prior_X3, table).as_list()

    assert min(weights(is_shared=True)) > 0.9
    assert max(weights(is_shared=False)) < 0.1


def test_damaged_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="expected three numbers"):
        NeighbouringLevels.from_list([0.1, 2.0, 0.1])
