"""Calibration of anyone's predictions: out of fold against true grades, or by a saved calibrator.

Written are metric-optimal probabilities, as in a submission; beside them, ``<name>-calibrated.csv``, for people, and
``<name>-calibrator.json``, which `apply_to_files` takes for predictions of other studies by the same models.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.sites import SITES
from vl_model.calibration.blended_files import BlendedFiles, blended_files
from vl_model.calibration.calibrator import Calibrator
from vl_model.calibration.cross_fit import DEFAULT_GROUPS, cross_fit, divisions_of
from vl_model.data.site_table import CONDITIONS, Bools, Floats, SiteTable, site_table
from vl_model.scoring.metrics import GRADES, competition_metric, log_loss
from vl_model.scoring.prediction_table import read_prediction_table, row_name
from vl_model.scoring.priors import ColumnPrior
from vl_model.scoring.scored_rows import graded_rows
from vl_model.scoring.submission import floored
from workspace.json_files import read_object
from workspace.whole_files import replacing

SCHEMA_VERSION = 1


def calibrate_files(
    paths: Sequence[Path], truth: Path, output: Path, context: bool = False, normalise: bool = False, seed: int = 0
) -> list[str]:
    """Calibrate files out of fold, and save a calibrator of all studies for `apply_to_files`.

    Several files are blended. Returns lines that say what was done. Raises ValueError if a file cannot be read, if no
    predicted study is graded, or if fewer than two are.
    """
    graded = graded_rows(truth)
    files = blended_files([read_prediction_table(path, normalise) for path in paths], graded)
    table, covered_N = files.table, files.covered_N
    shown = table.take(covered_N)
    if not shown.labelled_N.any():
        raise ValueError(f"{paths[0]}: {truth} grades none of the predicted sites; calibration requires true grades")
    divisions = divisions_of(shown, seed)
    fitted = cross_fit(files.log_prob_NF3[covered_N], shown, divisions, context)

    prob_N3 = _column_priors(table, divisions[0])
    prob_N3[covered_N] = fitted.prob_N3
    optimal_N3 = fitted.metric_optimal(prob_N3, table)
    calibrator = Calibrator(context=context).fit(files.log_prob_NF3[covered_N], shown)
    _write_probabilities(output, files, prob_N3, optimal_N3)
    _write_calibrator(calibrator_path(output), calibrator, ColumnPrior().fit(graded), paths)
    return [
        *_counts(files, paths),
        *_chosen(calibrator, fitted.strengths, files),
        *_figures(files, prob_N3, optimal_N3),
        f"metric-optimal  {output}",
        f"calibrated      {calibrated_path(output)}",
        f"calibrator      {calibrator_path(output)}",
    ]


def apply_to_files(saved: Path, paths: Sequence[Path], output: Path, normalise: bool = False) -> list[str]:
    """Calibrate predictions of other studies by a saved calibrator, given as many files in the same order.

    Raises ValueError if the calibrator or a file cannot be read, or if there are more or fewer files.
    """
    content = read_object(saved, "eval_vl.py --calibrate", SCHEMA_VERSION)
    try:
        calibrator = Calibrator.from_dict(content["calibrator"])
        prior = ColumnPrior()
        prior.prob_SC_ = np.array(content["column_priors"], dtype=np.float64).reshape(len(SITES), len(GRADES))
        expected = [str(name) for name in content["files"]]
        if calibrator.slope_KF_.shape[1] != len(expected):
            raise ValueError(f"{calibrator.slope_KF_.shape[1]} slopes for {len(expected)} files")
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{saved}: not a calibrator ({reason}); run eval_vl.py --calibrate again") from None
    if len(paths) != len(expected):
        raise ValueError(
            f"{saved}: was fitted on {len(expected)} file{'s' if len(expected) > 1 else ''} ({', '.join(expected)}), "
            f"but {len(paths)} are given; give the predictions of the same models in the same order"
        )
    names, their_names = [path.name for path in paths], [Path(name).name for name in expected]
    if names != their_names and sorted(names) == sorted(their_names):
        raise ValueError(
            f"{saved}: was fitted on {', '.join(their_names)} in this order, but the files given are "
            f"{', '.join(names)}; give them in the same order"
        )
    files = blended_files([read_prediction_table(path, normalise) for path in paths], site_table([]))
    prob_N3 = prior.predict_proba(files.table)
    covered_N = files.covered_N
    prob_N3[covered_N] = calibrator.predict_proba(files.log_prob_NF3[covered_N], files.table.take(covered_N))
    _write_probabilities(output, files, prob_N3, calibrator.metric_optimal(prob_N3, files.table))
    return [
        *_counts(files, paths),
        *(f"as {theirs:12s} {own}" for own, theirs in zip(names, their_names, strict=True) if own != theirs),
        *_as_given(calibrator, files),
        f"metric-optimal  {output}",
        f"calibrated      {calibrated_path(output)}",
    ]


def calibrated_path(output: Path) -> Path:
    return output.with_name(f"{output.stem}-calibrated.csv")


def calibrator_path(output: Path) -> Path:
    return output.with_name(f"{output.stem}-calibrator.json")


def _column_priors(table: SiteTable, group_of: Mapping[int, int]) -> Floats:
    """Return the frequencies of each row's column (N, 3) in the graded studies of the other groups.

    A graded study may be in no group, if no file predicts one of its graded sites. It gets one: its own grades must not
    reach it.
    """
    others = [study for study in table.take(table.labelled_N).study_ids if study not in group_of]
    group_of = {**group_of, **{study: number % DEFAULT_GROUPS for number, study in enumerate(others)}}
    prob_N3 = ColumnPrior().fit(table).predict_proba(table)
    for group in set(group_of.values()):
        rows = table.of_studies(study for study, its_group in group_of.items() if its_group == group)
        prob_N3[rows] = ColumnPrior().fit(table.take(~rows)).predict_proba(table.take(rows))
    return prob_N3


def _write_probabilities(output: Path, files: BlendedFiles, prob_N3: Floats, optimal_N3: Floats) -> None:
    written = files.table.take(files.written_N)
    names = [row_name(*key) for key in zip(written.study_N.tolist(), written.site_N.tolist(), strict=True)]
    for path, values_N3 in ((calibrated_path(output), prob_N3), (output, optimal_N3)):
        lines = [",".join(["row_id", *GRADES])]
        for name, values in zip(names, floored(values_N3[files.written_N]).tolist(), strict=True):
            lines.append(f"{name},{values[0]:.12f},{values[1]:.12f},{values[2]:.12f}")
        with replacing(path) as partial:
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_calibrator(path: Path, calibrator: Calibrator, prior: ColumnPrior, paths: Sequence[Path]) -> None:
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "files": [one.name for one in paths],
        "calibrator": calibrator.as_dict(),
        "column_priors": prior.prob_SC_.tolist(),
    }
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _counts(files: BlendedFiles, paths: Sequence[Path]) -> list[str]:
    """Return what there was, and what no file covers."""
    table, gaps_N = files.table, files.written_N & ~files.covered_N
    shown = table.take(files.covered_N)
    graded = shown.take(shown.labelled_N)
    known = f"; {len(graded)} of them graded, in {_plural(len(graded.study_ids), 'study')}" if len(graded) else ""
    words = [_plural(len(paths), "file"), _plural(len(table.study_ids), "study"), _plural(len(shown), "predicted site")]
    lines = [", ".join(words) + known]
    if gaps_N.any():
        gaps = table.take(gaps_N)
        lines.append(
            f"{_plural(len(gaps), 'site')} of {_plural(len(gaps.study_ids), 'study')} in no file "
            f"({row_name(*_first(gaps))}{', ...' if len(gaps) > 1 else ''}): with the frequencies of the column"
        )
    absent = [condition.words for index, condition in enumerate(CONDITIONS) if index not in shown.condition_N]
    if absent:
        lines.append(f"no file predicts {' or '.join(absent)}: these conditions are left out")
    return lines


def _plural(count: int, noun: str) -> str:
    plural = noun[:-1] + "ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def _first(table: SiteTable) -> tuple[int, int]:
    return int(table.study_N[0]), int(table.site_N[0])


def _as_given(calibrator: Calibrator, files: BlendedFiles) -> list[str]:
    """Return the predicted conditions that the calibrator does not change, because none of their sites was graded."""
    ungraded_K = files.covers_KF.any(axis=1) & ~calibrator.examples_KC_.any(axis=1)
    words = [CONDITIONS[index].words for index in np.flatnonzero(ungraded_K)]
    return [f"no grade of {' or '.join(words)} to fit on: these probabilities are as given"] if words else []


def _shares(slope_F: Floats, covers_F: Bools) -> str:
    """Return the weight of each file as a share; a file that does not predict the condition has none.

    The mean of the others stood in for it, so that its slope is theirs.
    """
    share_F = slope_F / max(slope_F.sum(), 1e-9)
    share_F = np.where(covers_F, share_F + share_F[~covers_F].sum() / max(covers_F.sum(), 1), np.nan)
    return " ".join("-" if np.isnan(share) else f"{share:.2f}" for share in share_F)


def _chosen(calibrator: Calibrator, strengths: Mapping[str, int], files: BlendedFiles) -> list[str]:
    """Return what the calibrators may change, what was left alone, and the weights of files and context."""
    counts = ", ".join(f"{name} ({count})" for name, count in sorted(strengths.items(), key=lambda pair: -pair[1]))
    lines = [f"fitted: {counts}, out of fold; of all studies: {calibrator.strength_}"]
    for index, condition in enumerate(CONDITIONS):
        alone = [GRADES[grade] for grade in np.flatnonzero(calibrator.left_alone_KC[index])]
        if calibrator.examples_KC_[index].any():
            slope_F = calibrator.slope_KF_[index]
            words = [f"slope {slope_F.sum():.2f}"]
            if len(slope_F) > 1:
                words.append(f"shares of the files {_shares(slope_F, files.covers_KF[index])}")
            if calibrator.context:
                ridge = calibrator.ridge_K_[index]
                words.append(f"context with ridge {ridge:g}" if np.isfinite(ridge) else "no context")
            if alone:
                words.append(f"biases of {', '.join(alone)} left alone (fewer than ten examples)")
            lines.append(f"  {condition.words}: {'; '.join(words)}")
    return lines + _as_given(calibrator, files)


def _figures(files: BlendedFiles, prob_N3: Floats, optimal_N3: Floats) -> list[str]:
    """Return the metric before and after, and the log loss, over the graded sites that a file predicts."""
    rows = files.table.labelled_N & files.covered_N
    table = files.table.take(rows)
    raw_N3 = files.given_N3[rows]
    before, after = competition_metric(table, raw_N3), competition_metric(table, optimal_N3[rows])
    losses = [log_loss(table.severity_N, one_N3) for one_N3 in (raw_N3, prob_N3[rows])]
    name = "score" if np.isfinite(after.score) else "mean of graded parts"
    return [
        f"{name} {before.graded_parts:.4f} as given, {after.graded_parts:.4f} out of fold; "
        f"unweighted log loss {losses[0]:.4f} as given, {losses[1]:.4f} calibrated"
    ]
