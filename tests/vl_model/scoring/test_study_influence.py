"""Figures against scikit-learn's, their influences against leaving studies out, and their intervals' coverage."""

import numpy as np
import pytest
from scipy.special import logit, ndtr
from scipy.stats import t
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from vl_model.scoring.score_intervals import correlation_interval, loss_interval, share_interval
from vl_model.scoring.study_influence import NO_FIGURE, auc, mean_figure, quadratic_kappa, weighted_mean


def cohort(studies: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return studies, severities and scores of rows that correlate within a study, some scores tied."""
    rng = np.random.default_rng(seed)
    study_N = np.repeat(np.arange(studies) * 3 + 5, 10)
    latent_N = np.repeat(rng.normal(size=studies), 10) + rng.normal(size=len(study_N))
    severity_N = np.digitize(latent_N, [0.5, 1.5])
    score_N = np.round(latent_N + rng.normal(size=len(study_N)), 1)
    return study_N, severity_N, score_N


def test_values_are_those_of_scikit_learn() -> None:
    study_N, severity_N, score_N = cohort(30, 1)
    predicted_N = np.digitize(score_N, [0.7, 1.3])
    assert auc(severity_N == 2, score_N, study_N).value == pytest.approx(roc_auc_score(severity_N == 2, score_N))
    kappa = cohen_kappa_score(severity_N, predicted_N, weights="quadratic")
    assert quadratic_kappa(severity_N, predicted_N, study_N).value == pytest.approx(kappa)


def test_influences_foretell_what_leaving_a_study_out_changes() -> None:
    study_N, severity_N, score_N = cohort(300, 2)
    predicted_N, weight_N = np.digitize(score_N, [0.7, 1.3]), 1.0 + severity_N
    figures = (
        lambda rows: auc(severity_N[rows] == 2, score_N[rows], study_N[rows]),
        lambda rows: quadratic_kappa(severity_N[rows], predicted_N[rows], study_N[rows]),
        lambda rows: weighted_mean(score_N[rows] ** 2, weight_N[rows], study_N[rows]),
    )
    for figure in figures:
        whole = figure(study_N > 0)
        assert whole.influence_S.sum() == pytest.approx(0, abs=1e-12) and len(whole.influence_S) == 300
        left_out = np.array([whole.value - figure(study_N != study).value for study in np.unique(study_N)])
        assert np.corrcoef(left_out, whole.influence_S)[0, 1] > 0.999
        assert left_out.std() == pytest.approx(whole.influence_S.std(), rel=0.05)


def test_intervals_cover_what_a_large_cohort_shows() -> None:
    study_N, severity_N, score_N = cohort(60 * 400, 3)
    predicted_N = np.digitize(score_N, [0.7, 1.3])
    truth = (
        auc(severity_N == 2, score_N, study_N).value,
        quadratic_kappa(severity_N, predicted_N, study_N).value,
        float((score_N**2).mean()),
    )
    covered = np.zeros(3)
    for rows in np.split(np.arange(len(study_N)), 400):
        study, severity = study_N[rows], severity_N[rows]
        intervals = (
            share_interval(auc(severity == 2, score_N[rows], study)),
            correlation_interval(quadratic_kappa(severity, predicted_N[rows], study)),
            loss_interval(weighted_mean(score_N[rows] ** 2, np.ones(len(rows)), study)),
        )
        covered += [one.low < value < one.high for one, value in zip(intervals, truth, strict=True)]
    assert (covered / 400 > 0.92).all() and (covered / 400 < 0.98).all(), covered / 400


def test_the_interval_of_an_auc_is_the_jackknife_on_the_logit_scale() -> None:
    study_N, severity_N, score_N = cohort(12, 4)
    event_N = severity_N == 2
    without_S = [roc_auc_score(event_N[study_N != study], score_N[study_N != study]) for study in np.unique(study_N)]
    logit_S, middle = logit(without_S), logit(roc_auc_score(event_N, score_N))
    with_events = len(np.unique(study_N[event_N]))
    assert with_events < len(logit_S)
    reach = t.ppf(0.975, with_events - 1) * np.sqrt((len(logit_S) - 1) * logit_S.var())
    found = share_interval(auc(event_N, score_N, study_N))
    assert logit([found.value, found.low, found.high]) == pytest.approx([middle, middle - reach, middle + reach])


def test_the_interval_of_an_auc_covers_where_few_studies_have_an_event() -> None:
    """The influences to first order, instead of those without each study, would cover 83 %."""
    rng = np.random.default_rng(6)
    study_N, covered = np.repeat(np.arange(66), 5), 0
    for _ in range(500):
        event_N = rng.random(330) < np.repeat(rng.beta(0.3, 5.7, 66), 5)
        score_N = rng.normal(size=330) + 3 * event_N
        found = share_interval(auc(event_N, score_N, study_N))
        covered += found.low < ndtr(3 / np.sqrt(2)) < found.high
    assert covered / 500 > 0.9, covered / 500


def test_an_auc_that_one_study_alone_keeps_from_one_has_an_interval() -> None:
    """Without the third study the area would be one, whose logit is infinite."""
    study_N, event_N = np.repeat(np.arange(8), 2), np.tile([False, True], 8)
    score_N = np.tile([0.0, 1.0], 8)
    score_N[5] = -1.0
    found = share_interval(auc(event_N, score_N, study_N))
    assert 0 < found.low < found.value == 0.875 < found.high < 1


def test_without_two_kinds_of_rows_there_is_no_figure() -> None:
    study_N, same_N = np.array([1, 2]), np.zeros(2, dtype=int)
    assert auc(same_N == 1, np.zeros(2), study_N) is NO_FIGURE
    assert quadratic_kappa(same_N, same_N, study_N) is NO_FIGURE
    assert weighted_mean(np.zeros(0), np.zeros(0), np.zeros(0, dtype=int)) is NO_FIGURE
    assert mean_figure([NO_FIGURE]) is NO_FIGURE
    alone = loss_interval(weighted_mean(np.ones(2), np.ones(2), np.array([1, 1])))
    assert alone.value == 1 and np.isnan(alone.low)
    assert np.isnan(share_interval(auc(np.array([False, True]), np.array([0.0, 1.0]), study_N)).low)


def test_an_auc_whose_events_are_in_one_study_has_no_interval() -> None:
    """Its estimated error would be that of the other outcome alone; with few such studies, t has few degrees."""
    rng = np.random.default_rng(3)
    study_N, score_N = np.repeat(np.arange(20), 5), rng.random(100)
    for studies, reach in ((1, None), (2, 12.706), (4, 3.182)):
        positive_N = (study_N < studies) & (np.arange(100) % 2 == 0)
        figure = auc(positive_N, score_N, study_N)
        interval = share_interval(mean_figure([figure, figure]))
        assert figure.independent_studies == studies and 0 < interval.value < 1
        if reach is None:
            assert np.isnan(interval.low) and np.isnan(interval.high)
        else:
            error = np.sqrt(20 / 19 * (figure.influence_S**2).sum()) / (interval.value * (1 - interval.value))
            assert logit(interval.high) - logit(interval.value) == pytest.approx(reach * error, rel=1e-3)
