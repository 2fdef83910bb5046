"""The plain baseline: it learns, never from held-out studies, with any views, and is fitted once per set of inputs."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.conversion.crops import open_crops
from data_prep.conversion.pairs import read_dataset
from data_prep.sites import SITES, View
from tests.tiny_dataset import write_tiny_dataset
from vl_model.baseline import baseline_files, crop_descriptors
from vl_model.baseline.baseline_files import baseline_log_probabilities
from vl_model.baseline.crop_descriptors import CropDescriptors, describe_crops
from vl_model.baseline.plain_baseline import PlainBaseline, describe_view
from vl_model.data.site_rows import SiteRow, group_sites
from vl_model.data.site_table import UNLABELLED, SiteTable, site_table
from vl_model.evaluation.cross_fitting import StudySplit, split_studies
from vl_model.evaluation.embeddings import Embeddings
from vl_model.scoring.constant_baseline import constant_baseline
from vl_model.scoring.metrics import weighted_log_loss


class Cohort:
    """A tiny data set of sixteen studies and nine sites, with two of five folds held out and its crops in memory."""

    def __init__(self, processed: Path) -> None:
        dataset = read_dataset(processed)
        rows = group_sites(dataset.pairs)
        self.crops = np.array(open_crops(processed))
        self.embeddings = Embeddings(rows, np.ones((len(rows), 2), np.float32), {"dataset": dataset.fingerprint})
        self.split = split_studies(self.embeddings.table, dataset.fold_of, [0, 1])

    def rows(self, table: SiteTable) -> list[SiteRow]:
        return [self.embeddings.rows[row] for row in self.embeddings.rows_of(table)]

    def fitted(self) -> PlainBaseline:
        return PlainBaseline().fit(self.split.train, self.rows(self.split.train), CropDescriptors(self.crops))

    def predicted(self, baseline: PlainBaseline, crops: np.ndarray | None = None) -> np.ndarray:
        held_out = self.split.held_out
        crops = self.crops if crops is None else crops
        return baseline.predict_log_proba(held_out, self.rows(held_out), CropDescriptors(crops))


@pytest.fixture(scope="module")
def processed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    processed = tmp_path_factory.mktemp("baseline") / "processed_data"
    write_tiny_dataset(processed, studies=16, sites=SITES[::3])
    return processed


@pytest.fixture
def cohort(processed: Path) -> Cohort:
    return Cohort(processed)


def without(table: SiteTable, rows: np.ndarray) -> SiteTable:
    return replace(table, severity_N=np.where(rows, UNLABELLED, table.severity_N))


def test_it_learns_from_the_images_and_is_deterministic(cohort: Cohort) -> None:
    log_prob_N3 = cohort.predicted(cohort.fitted())
    assert np.exp(log_prob_N3).sum(axis=1) == pytest.approx(np.ones(len(log_prob_N3)))
    held_out = cohort.split.held_out
    constant = weighted_log_loss(held_out, constant_baseline(cohort.split.train, held_out))
    assert weighted_log_loss(held_out, np.exp(log_prob_N3)) < 0.9 * constant
    assert np.array_equal(log_prob_N3, cohort.predicted(cohort.fitted()))


def test_held_out_studies_do_not_influence_the_fit(cohort: Cohort, tmp_path: Path) -> None:
    """With other pictures and grades of all held-out studies but one, the predictions for that one are the same."""
    split = cohort.split
    kept_N = split.held_out.study_N == split.held_out.study_ids[0]
    before = baseline_log_probabilities(tmp_path / "a", split, cohort.embeddings, CropDescriptors(cohort.crops))
    crops = cohort.crops.copy()
    changed = [crop for row in cohort.rows(split.held_out.take(~kept_N)) for crop in row.crops]
    crops[changed] = np.random.default_rng(0).integers(0, 256, crops[changed].shape, dtype=np.uint8)
    turned = replace(split.held_out, severity_N=np.where(kept_N, split.held_out.severity_N, 2))
    after = baseline_log_probabilities(
        tmp_path / "b", StudySplit(split.train, turned), cohort.embeddings, CropDescriptors(crops)
    )
    assert np.array_equal(after[kept_N], before[kept_N]) and not np.allclose(after[~kept_N], before[~kept_N])

    # And the training studies do influence it.
    shown = [crop for row in cohort.rows(split.train) for crop in row.crops]
    crops[shown] = crops[shown][::-1]
    assert not np.allclose(
        baseline_log_probabilities(tmp_path / "c", split, cohort.embeddings, CropDescriptors(crops)), after
    )


def test_ungraded_training_sites_do_not_influence_the_fit(cohort: Cohort) -> None:
    split = cohort.split
    dropped = split.train.study_N == split.train.study_ids[0]
    cohort.split = StudySplit(without(split.train, dropped), split.held_out)
    left_blank = cohort.predicted(cohort.fitted())
    cohort.split = StudySplit(split.train.take(~dropped), split.held_out)
    assert np.array_equal(cohort.predicted(cohort.fitted()), left_blank)


@pytest.mark.parametrize("graded", [[0], [1], [2], [0, 2]])
def test_a_cohort_that_grades_some_conditions_only(cohort: Cohort, graded: list[int]) -> None:
    train = cohort.split.train
    absent = ~np.isin(train.condition_N, graded)
    cohort.split = StudySplit(without(train, absent), cohort.split.held_out)
    baseline = cohort.fitted()
    prob_N3 = np.exp(cohort.predicted(baseline))
    assert np.isfinite(prob_N3).all() and np.isfinite(baseline.probe_.strength_K_[graded]).all()
    assert np.isnan(np.delete(baseline.probe_.strength_K_, graded)).all()


def test_a_view_that_no_training_site_or_no_new_site_has(cohort: Cohort) -> None:
    def in_view(rows: list[SiteRow], kept: bool) -> list[SiteRow]:
        sagittal = [[i for i, view in enumerate(row.views) if (view is View.AXIAL_T2) != kept] for row in rows]
        return [
            replace(row, crops=tuple(row.crops[i] for i in keep), views=tuple(row.views[i] for i in keep))
            for row, keep in zip(rows, sagittal, strict=True)
        ]

    split, rows, new = cohort.split, cohort.rows(cohort.split.train), cohort.rows(cohort.split.held_out)
    never = PlainBaseline().fit(split.train, in_view(rows, kept=True), CropDescriptors(cohort.crops))
    assert View.AXIAL_T2 not in never.component_of_
    assert np.array_equal(
        never.predict_log_proba(split.held_out, new, CropDescriptors(cohort.crops)),
        never.predict_log_proba(split.held_out, in_view(new, kept=True), CropDescriptors(cohort.crops)),
    )
    always = cohort.fitted()
    missing = always.predict_log_proba(split.held_out, in_view(new, kept=True), CropDescriptors(cohort.crops))
    assert np.isfinite(missing).all() and not np.allclose(missing, cohort.predicted(always))


def test_flat_pictures_and_single_sites_are_no_error(cohort: Cohort) -> None:
    train, crops = cohort.split.train, CropDescriptors(cohort.crops)
    flat = CropDescriptors(np.full_like(cohort.crops, 7))
    assert np.isfinite(cohort.predicted(PlainBaseline().fit(train, cohort.rows(train), flat))).all()
    first = train.take(np.flatnonzero(train.labelled_N)[:1])
    assert np.isfinite(cohort.predicted(PlainBaseline().fit(first, cohort.rows(first), crops))).all()
    with pytest.raises(ValueError, match="no labelled training site"):
        PlainBaseline().fit(without(first, np.array([True])), cohort.rows(first), crops)


def test_descriptors_are_of_the_middle_of_the_middle_slice(cohort: Cohort) -> None:
    crop_T = np.arange(len(cohort.crops))[::-2]
    found = describe_crops(cohort.crops, crop_T)
    elsewhere = np.zeros_like(cohort.crops)
    elsewhere[:, 1, 39:89, 39:89] = cohort.crops[:, 1, 39:89, 39:89]
    assert np.array_equal(describe_crops(elsewhere, crop_T), found) and found.shape == (len(crop_T), 900 + 144)
    last = cohort.crops[crop_T[-1], 1, 40:88, 40:88] / 255
    assert found[-1, -1] == pytest.approx(2 * last[-4:, -4:].mean(), abs=1e-6)


def test_each_crop_is_described_once(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    described: list[int] = []

    def counted(crops: np.ndarray, crop_T: np.ndarray, pixel_mm: float) -> np.ndarray:
        described.extend(crop_T.tolist())
        return describe_crops(crops, crop_T, pixel_mm)

    monkeypatch.setattr(crop_descriptors, "describe_crops", counted)
    crops, asked = CropDescriptors(cohort.crops), [np.array([5, 2, 5]), np.array([7, 2]), np.arange(9)[::-1]]
    for crop_T in asked:
        assert np.array_equal(crops.describe(crop_T), describe_crops(cohort.crops, crop_T))
    assert sorted(described) == list(range(9))


def test_a_site_with_several_crops_of_a_view_has_their_mean(cohort: Cohort) -> None:
    row = next(row for row in cohort.embeddings.rows if len(row.crops) == 2)
    view = row.views[0]
    double = replace(row, crops=(row.crops[0], row.crops[0] + 5, row.crops[1]), views=(view, view, row.views[1]))
    table = site_table([(row.study_id, row.site, row.severity)])
    assert len(table) == 1
    shown_M, found = describe_view([row, double], CropDescriptors(cohort.crops), view)
    single = describe_crops(cohort.crops, np.array([row.crops[0], row.crops[0] + 5]))
    assert shown_M.tolist() == [0, 1] and np.array_equal(found[0], single[0])
    assert found[1] == pytest.approx(single.mean(axis=0), abs=1e-6)


def test_it_is_fitted_again_only_if_its_inputs_change(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = []
    fit = PlainBaseline.fit
    monkeypatch.setattr(PlainBaseline, "fit", lambda *a: fits.append(1) or fit(*a))  # counts, and fits

    def predicted(split: StudySplit = cohort.split, dataset: str | None = None) -> tuple[np.ndarray, int]:
        fits.clear()
        embeddings = replace(cohort.embeddings, fingerprint={"dataset": dataset}) if dataset else cohort.embeddings
        return baseline_log_probabilities(tmp_path, split, embeddings, CropDescriptors(cohort.crops)), len(fits)

    first, times = predicted()
    assert times == 1 and {path.name for path in tmp_path.iterdir()} == {"baseline.npz", "baseline.json"}
    again, times = predicted()
    assert times == 0 and np.array_equal(first, again)
    held_out = replace(cohort.split.held_out, severity_N=cohort.split.held_out.severity_N[::-1].copy())
    assert predicted(StudySplit(cohort.split.train, held_out))[1] == 0  # only the calibrators learn from these
    relabelled = replace(cohort.split.train, severity_N=(cohort.split.train.severity_N + 1) % 3)
    assert predicted(StudySplit(relabelled, cohort.split.held_out))[1] == 1
    assert predicted()[1] == 1 and predicted(dataset="other")[1] == 1 and predicted()[1] == 1
    monkeypatch.setitem(baseline_files.SETTINGS, "components", 5)
    assert predicted()[1] == 1
    whole = (tmp_path / "baseline.npz").read_bytes()
    for damaged in (b"", whole[:300]):
        (tmp_path / "baseline.npz").write_bytes(damaged)
        found, times = predicted()
        assert times == 1 and np.array_equal(found, first)
    (tmp_path / "baseline.json").write_text("[]")
    assert predicted()[1] == 1
    shutil.rmtree(tmp_path)
    assert predicted()[1] == 1


def test_sites_that_no_image_shows_are_left_out(cohort: Cohort, tmp_path: Path) -> None:
    """Study 1 is held out; its first three sites lose their images."""
    fewer = replace(cohort.embeddings, rows=cohort.embeddings.rows[3:], image_ND=cohort.embeddings.image_ND[3:])
    found = baseline_log_probabilities(tmp_path, cohort.split, fewer, CropDescriptors(cohort.crops))
    whole = cohort.predicted(cohort.fitted())
    assert found == pytest.approx(whole[3:], abs=1e-9) and cohort.split.held_out.study_ids[0] == 1
