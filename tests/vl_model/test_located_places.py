"""Held-out studies at places as in use: where new studies are graded, calibrators are fitted."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import eval_vl
import prepare_data
from data_prep.conversion.pairs import read_dataset
from data_prep.phantom.cohort import write_cohort
from data_prep.sites import SITES, Source
from tests.data_prep.conversion.test_odd_studies import save_untrained_locator
from tests.evaluated_root import run_here, write_run
from vl_model import load_run
from vl_model.calibration.calibrator import Calibrator
from vl_model.data.site_table import full_table, site_table
from vl_model.evaluated_runs import placed_as_new
from vl_model.evaluation import typicality
from vl_model.evaluation.embeddings import read_embeddings
from vl_model.evaluation.known_labels import known_labels
from vl_model.located_places import Located, embed_located
from workspace.layout import DataRoot


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_base: str) -> Path:
    """A phantom cohort of three studies with marks, and a run that held out two of them, evaluated."""
    root = tmp_path_factory.mktemp("located")
    write_cohort(root, train=3, test=0, seed=3, scanners="first", size="small", workers=1, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        assert run_here(prepare_data, ["--root", str(root), "--workers", "1", "--split", "train"], patch) == 0
        folds = sorted(read_dataset(root / "train" / "processed_data").fold_of.values())
        write_run(root, "first", tiny_base, folds[:2])
        patch.setattr(typicality, "LEAST_HELD_OUT", 1)
        patch.setattr(typicality, "_LEAST_SITES", 1)
        assert run_here(eval_vl, ["--root", str(root), "--run", "first", "--workers", "1"], patch) == 0
    return root


def report_of(root: Path) -> dict:
    return json.loads((root / "train" / "logs" / "first" / "report.json").read_text())


def test_held_out_studies_are_placed_and_graded_as_new_ones(root: Path, tmp_path: Path) -> None:
    """From the PNG files, without marks, they get the grades that their DICOM files get as new studies."""
    places = report_of(root)["places"]
    assert places["reason"] is None and set(places["sources"]) == {"atlas"}
    run = load_run(DataRoot(root), "first")
    grader = run.grader()
    located = read_embeddings(run.folder / "embeddings" / "located", {"checkpoint": run.checkpoint})
    studies = sorted({row.study_id for row in located.rows})
    assert len(studies) == 2 and studies == read_dataset(run.folder / "located").metadata["study_ids"]
    for study in studies:
        shutil.copytree(root / "dataset" / "train_images" / str(study), tmp_path / "images" / str(study))
    descriptions = root / "dataset" / "train_series_descriptions.csv"
    new = run.grade(tmp_path / "images", series_descriptions=descriptions, out=tmp_path / "out")
    table = full_table(studies, site_table([]))
    prob_N3 = grader.predict_proba(table, [located], "calibrated")
    assert new[["normal_mild", "moderate", "severe"]].to_numpy() == pytest.approx(prob_N3, abs=1e-5)

    # The calibrators for new studies are those of these places, not of the marks.
    labels = known_labels(DataRoot(root), run.dataset("train"))
    held_out = labels.take(labels.of_studies(studies))
    row_N = located.rows_of(held_out)
    shown, image_MD = held_out.take(row_N >= 0), located.image_ND[row_N[row_N >= 0]]
    for head in ("zero_shot", "linear_probe"):
        log_prob_M3 = grader.models["first"][head].predict_log_proba(shown, image_MD)
        expected = Calibrator().fit(log_prob_M3, shown)
        assert np.allclose(grader.calibrators[head].slope_KF_, expected.slope_KF_, atol=1e-6)
        assert np.allclose(grader.calibrators[head].bias_KC_, expected.bias_KC_, atol=1e-6)

    # They are as typical as the held-out studies are at these places, not at the marks.
    known = grader.typicality["first"]
    of_places, of_marks = (
        np.sort(known.distances(*embeddings.shown(held_out))[1]) for embeddings in (located, run.embed("train"))
    )
    np.testing.assert_allclose(known.held_out_S, of_places, rtol=1e-9)
    assert not np.allclose(of_places, of_marks, rtol=1e-3)
    learned = run.embed("train").shown(labels.take(~labels.of_studies(studies)))
    for condition in range(3):
        mean_D = learned[1][learned[0].condition_N == condition].mean(axis=0)
        np.testing.assert_allclose(known.mean_KD[condition], mean_D, atol=1e-6)
    told = pd.read_csv(tmp_path / "out" / "studies.csv")["typicality"]
    assert set((3 * told).round(6)) <= {1, 2, 3}


def test_the_typicality_needs_the_places_of_new_studies(root: Path) -> None:
    run = load_run(DataRoot(root), "first")
    train = run.embed("train")
    studies = train.table.study_ids
    assert placed_as_new(train, "the locator saw them", studies) is None
    rows = tuple(replace(row, source=Source.ATLAS) for row in train.rows)
    unmarked = replace(train, rows=rows)
    assert placed_as_new(unmarked, "no held-out study has marks", studies) is unmarked
    assert placed_as_new(train, Located(unmarked, {}), studies) is unmarked


def test_the_report_has_both_and_their_ratio(root: Path) -> None:
    report = report_of(root)
    places = report["places"]
    for head, kinds in places["located"].items():
        located, marked = kinds["metric_optimal"], places["marked"][head]["metric_optimal"]
        assert marked["score"] == report["metric"][head]["metric_optimal"]["score"]
        assert places["ratio"][head]["score"]["value"] == pytest.approx(located["score"] / marked["score"])
    scores = {head: places["located"][head]["metric_optimal"]["score"] for head in places["located"]}
    assert report["head"] == min(scores, key=lambda head: scores[head])
    page = (root / "train" / "logs" / "first" / "report.html").read_text()
    assert "At places as in use, found without the marks" in page


def located(root: Path) -> Located | str:
    """Return the held-out studies at places as in use, or why there are none."""
    run = load_run(DataRoot(root), "first")
    dataset = run.dataset("train")
    held_out = [study for study, fold in dataset.fold_of.items() if fold in run.record.held_out_folds]
    return embed_located(run, dataset, held_out, run.embed("train"), batch_size=64, workers=1)


def test_they_are_placed_and_embedded_once(root: Path) -> None:
    folder = root / "train" / "checkpoints" / "first"
    kept = [folder / "located" / "crops.npy", folder / "embeddings" / "located" / "image.npy"]
    stamps = [path.stat().st_mtime_ns for path in kept]
    assert isinstance(located(root), Located)
    assert [path.stat().st_mtime_ns for path in kept] == stamps
    (folder / "located" / "crops.json").unlink()  # as after a kill while they were written
    assert isinstance(located(root), Located)
    assert kept[0].stat().st_mtime_ns != stamps[0] and not list((folder / "located").glob(".parts-*"))


def test_a_locator_that_saw_a_held_out_study_does_not_grade_it(root: Path) -> None:
    pairs, run = read_dataset(root / "train" / "processed_data").pairs, load_run(DataRoot(root), "first")
    held_out = {pair.study_id for pair in pairs if pair.fold in run.record.held_out_folds}
    placing = run.folder / "placing"
    save_untrained_locator(placing / "locator")
    record = placing / "locator" / "locator.json"
    content = json.loads(record.read_text())

    def trained_on(studies: set[int]) -> Located | str:
        series = {str(pair.study_id): [pair.series_id] for pair in pairs if pair.study_id in studies}
        record.write_text(json.dumps(content | {"notes": {"trained_series": series}}))
        return located(root)

    try:
        assert "does not record which studies it was trained on" in str(located(root))
        assert "was trained on 2 of the 2 held-out studies" in str(trained_on({pair.study_id for pair in pairs}))
        others = trained_on({pair.study_id for pair in pairs} - held_out)
        assert isinstance(others, Located) and 0 < sum(others.sources.values()) <= 2 * len(SITES)
    finally:
        shutil.rmtree(placing)


def test_without_tables_of_places_the_report_says_so(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(root, tmp_path / "root")
    (tmp_path / "root" / "train" / "processed_data" / "sites.csv").unlink()
    assert run_here(eval_vl, ["--root", str(tmp_path / "root"), "--run", "first"], monkeypatch) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("places as in use")]
    assert "not measured (first: " in line and "sites.csv: cannot be read" in line
