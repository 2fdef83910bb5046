"""A locator that is trained for a few steps on a phantom cohort: its files, and its use in the conversion."""

import csv
import json
import pickle
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from safetensors.torch import load_file

import prepare_data
import train_locator
from benchmarks import locate
from data_prep.conversion.pairs import read_dataset, read_metadata
from data_prep.geometry import Frame
from data_prep.phantom import write_cohort
from data_prep.placement.atlas import load_atlas
from data_prep.placement.shipped_atlas import shipped_atlas
from data_prep.sites import SITES, Condition, Source, View, parse_row_id_site
from data_prep.studies.studies import Series, Study
from locator.batches import ImageBatches
from locator.calibration import _error_scale, as_it_would_locate, detect_in
from locator.carried import find_carried_files, placer_for_run
from locator.cut_off import lower_end_cut_off
from locator.encoders import SMALL as SMALL_ENCODER
from locator.errors import PositionErrors
from locator.field_height import FieldHeight
from locator.files import LOCATOR, SHIPPED, WEIGHTS, find_locator
from locator.learning_set import read_learning_set
from locator.level_count import LOWEST_CANAL, level_count_error_mm
from locator.level_evidence import DEFAULT_RULE, SHIFTS, LevelCalibration, ScoreRule
from locator.locator import MAX_EXPECTED_ERROR_MM, Locator
from locator.marked_studies import MarkedStudy, read_marked_studies
from locator.network import new_network
from locator.saved_locator import load_locator, save_locator
from locator.site_placer import LocatorPlacer, make_placer
from locator.slices import sagittal_images
from locator.suspects import describe_suspect, find_suspects, read_suspects, write_suspects
from locator.training_data import cache_images
from tests.locator.lite0_base import write_base
from tests.training_runs import ENVIRONMENT, REPOSITORY
from workspace.cli import run_command
from workspace.layout import DataRoot

Run = Callable[..., int]
SIDES = ("left", "right")
SHORT = ("--max_train_steps", "4", "--checkpointing_steps", "2", "--report_to", "none")
#: With this seed the two processes of a step have different numbers of marked landmarks.
SEED = 1
SMALL = ("--per_device_train_batch_size", "2", "--mixed_precision", "no")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> DataRoot:
    """Return a root with six prepared studies, a locator that held out fold 0, and an unprepared test study."""
    path = write_cohort(tmp_path_factory.mktemp("locator"), train=6, test=1, seed=6)
    with pytest.MonkeyPatch.context() as patch:
        run_script(patch, prepare_data, "--root", str(path), "--split", "train", "--workers", "1")
        assert run_script(patch, train_locator, "--root", str(path), *SHORT, *SMALL) == 0
    return DataRoot(path)


def run_script(patch: pytest.MonkeyPatch, script: object, *arguments: str) -> int:
    """Run a script's `main` in this process and return its exit status."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()
    patch.setattr(sys, "argv", ["script.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_command("script.py", script.main)  # type: ignore[attr-defined]
    return int(stop.value.code or 0)


@pytest.fixture
def train(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> Run:
    return lambda *arguments: run_script(monkeypatch, train_locator, "--root", str(root.path), *arguments)


@pytest.fixture(scope="module")
def locator(root: DataRoot) -> Locator:
    return load_locator(root.run("locator") / "final")


@pytest.fixture(scope="module")
def marked(root: DataRoot) -> MarkedStudy:
    return read_marked_studies(root.processed("train"), fold_of(root))[0]


@pytest.fixture(scope="module")
def study(root: DataRoot, marked: MarkedStudy) -> Study:
    return marked.read(root.processed("train"))


def fold_of(root: DataRoot) -> dict[int, int]:
    folds = read_metadata(root.processed("train"))["folds"]["of_study"]
    return {int(study): int(fold) for study, fold in folds.items()}


def test_the_report_covers_the_held_out_studies(root: DataRoot) -> None:
    report = json.loads((root.logs("locator") / "locator_report.json").read_text())
    assert report["studies"] == sum(fold == 0 for fold in fold_of(root).values())
    assert {table["condition"] for table in report["conditions"]} == {site.condition for site in SITES}
    steps = [row["step"] for row in csv.DictReader((root.logs("locator") / "metrics.csv").open())]
    assert steps == ["1", "2", "3", "4"]


def test_a_study_read_back_equals_the_study_that_was_written(study: Study, marked: MarkedStudy) -> None:
    """Marks lie on slices of the study; a mistake in frames or stacks would move them away."""
    frames = [frame for series in study.series for frame in series.frames.values()]
    for index in np.flatnonzero(np.isfinite(marked.position_N3).all(axis=1)):
        assert min(abs(frame.distance_mm(marked.position_N3[index])) for frame in frames) < 0.01
    assert {series.view for series in study.series} <= set(View)


def test_a_pretrained_encoder_reads_the_sagittal_images(
    root: DataRoot, train: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A resumed run reads it again from the base, because no checkpoint contains it; another base is refused."""
    missing, other = tmp_path / "none", tmp_path / "other"
    assert train("--run", "pretrained", *SHORT, *SMALL, "--base", str(missing)) == 2
    error = capsys.readouterr().err
    assert f"--base {str(missing)!r}: " in error and "packaged_bases" in error and "Traceback" not in error
    tower = write_base(tmp_path)
    run = ("--run", "pretrained", *SHORT, *SMALL, "--checkpoints_total_limit", "9")
    assert train(*run, "--base", str(tmp_path)) == 0
    final = root.run("pretrained") / "final"
    network = load_locator(final).network
    assert all(torch.equal(tensor, tower[name]) for name, tensor in network.sagittal.encoder.state_dict().items())
    assert network.axial.kind == SMALL_ENCODER
    uninterrupted = load_file(final / WEIGHTS)
    resuming = (*run, "--resume_from_checkpoint", "checkpoint-2")
    other.mkdir()
    write_base(other)
    for arguments in (("--base", str(other)), ()):
        assert train(*resuming, *arguments) == 2
        assert "was written with base = 'sha256 " in capsys.readouterr().err
    assert train(*resuming, "--base", str(tmp_path)) == 0
    for name, tensor in load_file(final / WEIGHTS).items():
        np.testing.assert_array_equal(tensor, uninterrupted[name], err_msg=name)
    for name in ("resnet18", None, []):
        content = json.loads((final / LOCATOR).read_text())
        (final / LOCATOR).write_text(json.dumps({**content, "sagittal_encoder": name}))
        with pytest.raises(ValueError, match=r"sagittal_encoder is .*; this version knows mobilenetv3_small_100, "):
            load_locator(final)
    shutil.rmtree(root.run("pretrained"))


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    root: DataRoot, train: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """An attempt in between diverges, and leaves the checkpoints as they are."""
    assert (root.run("locator") / "checkpoint-4").is_dir()
    assert train("--run", "again", *SHORT, *SMALL, "--checkpoints_total_limit", "9") == 0
    resuming = ("--run", "again", *SHORT, *SMALL, "--resume_from_checkpoint", "checkpoint-2")
    assert train(*resuming, "--learning_rate", "1e30") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "step 4: the loss is" in error and error.endswith("checkpoint-2 resumes from the last checkpoint"), error
    assert train(*resuming) == 0
    uninterrupted = load_file(root.run("locator") / "final" / WEIGHTS)
    resumed = load_file(root.run("again") / "final" / WEIGHTS)
    for name, tensor in uninterrupted.items():
        np.testing.assert_array_equal(tensor, resumed[name], err_msg=name)
    shutil.rmtree(root.run("again"))


def test_a_held_out_study_with_the_pixels_of_a_training_study_is_refused(root: DataRoot, tmp_path: Path) -> None:
    processed = tmp_path / "processed_data"
    pictures = shutil.ignore_patterns("locator_pictures", "images", "crops.npy")
    shutil.copytree(root.processed("train"), processed, ignore=pictures)
    metadata, fold_of = processed / "dataset.json", read_dataset(processed).fold_of
    held_out, trained = (min(study for study, fold in fold_of.items() if fold == own) for own in (0, 1))
    text = metadata.read_text()
    metadata.write_text(
        text.replace('"split": "train",', f'"split": "train",\n "twins": [[{trained}, {held_out}]],', 1)
    )
    with pytest.raises(ValueError, match=rf"held_out_folds \[0\]: 1 held-out study .*{held_out} those of {trained}"):
        read_learning_set(processed, [0])
    assert read_learning_set(processed, [0, 1]).held_out


def test_two_processes_give_every_marked_landmark_the_same_weight(root: DataRoot, tmp_path: Path) -> None:
    """The loss and gradient of two processes equal those of a sum over both their batches in one process.

    The batches have different numbers of marked landmarks; batch statistics are those of each batch.
    """
    processed = DataRoot(tmp_path).processed("train")
    shutil.copytree(root.processed("train"), processed, ignore=shutil.ignore_patterns("locator_pictures"))
    with (processed / "sites.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    thinned = min((row[0] for row in rows), key=int)  # in this study only the canal stays marked
    kept = [row for row in rows if row[0] != thinned or row[1] == Condition.SPINAL_CANAL_STENOSIS]
    with (processed / "sites.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *kept])

    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    launcher += ["--config_file", "accelerate_configs/cpu_2.yaml", "train_locator.py", "--root", str(tmp_path)]
    launcher += [*SHORT, *SMALL, "--seed", str(SEED)]
    finished = subprocess.run(launcher, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert (DataRoot(tmp_path).run("locator") / "final" / WEIGHTS).is_file()
    with (DataRoot(tmp_path).logs("locator") / "metrics.csv").open(newline="") as file:
        steps = list(csv.DictReader(file))
    assert [row["step"] for row in steps] == ["1", "2", "3", "4"]

    learning_set = read_learning_set(processed, [0])
    studies = sorted((*learning_set.training, *learning_set.held_out), key=lambda study: study.study_id)
    caches = cache_images(studies, processed, learning_set.fingerprint)
    torch.manual_seed(SEED)
    network = new_network().train()
    loss = torch.zeros(())
    for orientation, cache in caches.items():
        batches = [
            ImageBatches(orientation, cache, cache.rows_to_draw(learning_set.training), 2, SEED, n, 2).draw(1)
            for n in range(2)
        ]
        known = [int(batch.known_BC.sum()) for batch in batches]
        assert orientation == "axial" or known[0] != known[1], "choose a SEED for which these numbers differ"
        for batch in batches:
            logits_BCP = getattr(network, orientation)(batch.image_B3HW)
            cross_entropy_BC = -(batch.target_BCP * logits_BCP.log_softmax(dim=2)).sum(dim=2)
            loss = loss + cross_entropy_BC[batch.known_BC > 0].sum() / sum(known)
    loss.backward()
    norm = torch.cat([weight.grad.flatten() for weight in network.parameters() if weight.grad is not None]).norm()
    assert float(steps[0]["loss"]) == pytest.approx(loss.item(), rel=1e-4)
    assert float(steps[0]["gradient_norm"]) == pytest.approx(norm.item(), rel=1e-3)


def test_a_training_stops_before_its_slurm_job_ends(
    root: DataRoot, train: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 100))
    assert train("--run", "early", *SHORT, *SMALL) == 0
    assert (root.run("early") / "checkpoint-1").is_dir() and not (root.run("early") / "final").exists()
    shutil.rmtree(root.run("early"))


def test_every_site_is_located_in_any_combination_of_series(locator: Locator, study: Study) -> None:
    complete = locator.locate(study)
    assert complete is not None and complete.position_N3.shape == (25, 3)
    cases = [
        replace(study, series=tuple(series for series in study.series if series.view is view)) for view in View
    ] + [replace(study, series=tuple(_one_slice(series) for series in study.series))]
    for case in cases:
        located = locator.locate(case)
        if located is None:
            assert not any(series.frames for series in case.series)
            continue
        assert np.isfinite(located.position_N3).all() and (located.expected_error_N > 0).all()
    assert locator.locate(Study(1, ())) is None


def _one_slice(series):  # type: ignore[no-untyped-def]
    return replace(series, slices=series.slices[:1], stacks=((0,),))


def test_the_order_of_slices_does_not_matter(locator: Locator, study: Study) -> None:
    """Stacks are sorted along the patient, so the order of slices in a series has no effect."""
    reversed_series = tuple(
        replace(
            series,
            slices=series.slices[::-1],
            stacks=tuple(tuple(len(series.slices) - 1 - index for index in stack) for stack in series.stacks),
        )
        for series in study.series
    )
    one, other = locator.locate(study), locator.locate(replace(study, series=reversed_series))
    assert one is not None and other is not None
    np.testing.assert_allclose(one.position_N3, other.position_N3, atol=1e-4)


def test_marks_improve_the_other_positions(locator: Locator, study: Study, marked: MarkedStudy) -> None:
    without, with_marks = locator.locate(study), locator.locate(study, marked.position_N3)
    assert without is not None and with_marks is not None
    largest = np.nanmax(np.linalg.norm(with_marks.position_N3 - marked.position_N3, axis=1))
    assert largest < 6
    assert with_marks.expected_error_N.mean() < without.expected_error_N.mean()


def test_positions_have_the_source_that_they_come_from(root: DataRoot, study: Study) -> None:
    final = root.run("locator") / "final"
    atlas = load_atlas(root.processed("train") / "atlas.json")
    placer = pickle.loads(pickle.dumps(make_placer(final, atlas)))
    assert isinstance(placer, LocatorPlacer)
    positions = placer.place(study, {})
    assert set(positions) == set(SITES)
    located = load_locator(final).locate(study)
    assert located is not None
    for index, site in enumerate(SITES):
        expected = Source.LOCATED if located.expected_error_N[index] <= MAX_EXPECTED_ERROR_MM else Source.ATLAS
        assert positions[site].source is expected
    assert placer.place(study, positions) == {}


def test_the_conversion_uses_the_newest_locator_and_records_it(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def sources() -> set[str]:
        with (root.processed("test") / "sites.csv").open() as file:
            return set(Counter(row["source"] for row in csv.DictReader(file)))

    test = ("--root", str(root.path), "--split", "test", "--workers", "1")
    assert run_script(monkeypatch, prepare_data, *test, "--check", "--locator", "none") == 0
    assert "; an atlas would place the others" in capsys.readouterr().out
    assert run_script(monkeypatch, prepare_data, *test, "--check") == 0
    assert "; the locator 'locator' would place the others" in capsys.readouterr().out
    assert run_script(monkeypatch, prepare_data, *test, "--locator", "none") == 0
    assert sources() == {"atlas"}
    monkeypatch.setattr("locator.locator.MAX_EXPECTED_ERROR_MM", 1000.0)
    assert run_script(monkeypatch, prepare_data, *test) == 0
    assert sources() == {"located"}
    assert read_metadata(root.processed("test"))["settings"]["locator"]["run"] == "locator"


def test_a_run_carries_its_locator_to_another_data_root(root: DataRoot, tmp_path: Path, study: Study) -> None:
    run = root.run("carrying")
    find_carried_files(root).copy_to(run)
    elsewhere = DataRoot(tmp_path)
    shutil.copytree(run, elsewhere.run("carrying"))
    shutil.rmtree(run)
    carried = placer_for_run(elsewhere, elsewhere.run("carrying"), None)
    here = make_placer(root.run("locator") / "final", load_atlas(root.processed("train") / "atlas.json"))
    assert isinstance(here, LocatorPlacer)
    assert carried.fingerprint == here.fingerprint
    assert carried.place(study, {}) == here.place(study, {})
    shutil.rmtree(elsewhere.run("carrying") / "placing" / "locator")
    assert placer_for_run(elsewhere, elsewhere.run("carrying"), None).fingerprint == here.atlas.fingerprint
    shutil.copytree(root.run("locator") / "final", elsewhere.run("carrying") / "placing" / "locator")
    atlas_alone = placer_for_run(elsewhere, elsewhere.run("carrying"), "none")
    assert {position.source for position in atlas_alone.place(study, {}).values()} == {Source.ATLAS}
    without = elsewhere.run("other")  # carries nothing, and nothing was learned here
    assert placer_for_run(elsewhere, without, None).fingerprint == make_placer(None, None).fingerprint
    assert placer_for_run(elsewhere, without, "none").fingerprint == shipped_atlas().fingerprint
    (elsewhere.run("carrying") / "placing" / "locator" / WEIGHTS).write_bytes(b"")
    with pytest.raises(ValueError, match="not the weights"):
        placer_for_run(elsewhere, elsewhere.run("carrying"), None)


def test_missing_and_damaged_locators_are_refused(root: DataRoot, tmp_path: Path, train: Run) -> None:
    with pytest.raises(ValueError, match=r"^locator 'nothing': .*locator\.json does not exist"):
        find_locator(root, "nothing")
    assert find_locator(DataRoot(tmp_path), None) is None
    final = tmp_path / "train" / "checkpoints" / "broken" / "final"
    shutil.copytree(root.run("locator") / "final", final)
    (final / WEIGHTS).write_bytes((final / WEIGHTS).read_bytes()[:-9])
    with pytest.raises(ValueError, match="not the weights"):
        find_locator(DataRoot(tmp_path), None)
    (final / LOCATOR).write_text('{"schema_version": 1, "prior": {"shape": [1]}}')
    with pytest.raises(ValueError, match="not a locator"):
        load_locator(final)
    assert train(*SHORT) == 2  # a run of this name exists
    assert train("--run", "folds", "--held_out_folds", "77", *SHORT) == 2


@pytest.mark.parametrize(
    ("table", "in_header", "old", "new", "words"),
    [
        ("sites.csv", False, b",annotated", b"", "damaged"),  # a line with too few cells
        ("sites.csv", True, b"source", b"sauce", "damaged (no column 'source')"),
        ("sites.csv", False, b",", b",\xff", "sites.csv:"),
        ("slices.csv", False, b"1", b"one", "slices.csv:2: damaged (invalid literal"),
        ("slices.csv", True, b"window_low", b"", "damaged (no column 'window_low')"),
        ("slices.csv", False, b".png", b".png,", "damaged ("),
    ],
)
def test_damaged_tables_are_refused_in_one_line(
    root: DataRoot, tmp_path: Path, table: str, in_header: bool, old: bytes, new: bytes, words: str
) -> None:
    for name in ("sites.csv", "slices.csv"):
        shutil.copy(root.processed("train") / name, tmp_path)
    first, rest = (tmp_path / table).read_bytes().split(b"\n", 1)
    damaged = [first.replace(old, new), rest] if in_header else [first, rest.replace(old, new, 1)]
    (tmp_path / table).write_bytes(b"\n".join(damaged))
    with pytest.raises(ValueError, match=re.escape(words)) as refusal:
        read_marked_studies(tmp_path, fold_of(root))[0].read(tmp_path)
    assert "\n" not in str(refusal.value) and str(tmp_path / table) in str(refusal.value)


def test_sheets_are_drawn(root: DataRoot, train: Run) -> None:
    # --held_out_folds has no effect here: the studies that the run itself held out are drawn.
    assert train("--show", "--held_out_folds", "1") == 0
    assert list((root.logs("locator") / "sheets").glob("worst_*.png"))


def test_the_benchmark_prints_errors_on_complete_and_on_damaged_studies(
    root: DataRoot, locator: Locator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = locate.measure(locator, root, 1, hurt=True)
    locate.show(cases, tmp_path)
    printed = capsys.readouterr().out
    assert all(f"\n{name}:" in printed for name, _ in locate.CHANGES)
    assert printed.count("within 10 mm") == len(locate.CHANGES) + 1
    assert f"{cases[0].study_id}: " in printed and "mm off" in printed
    assert list(tmp_path.glob("worst_*.png"))


def test_marks_off_by_a_level_or_on_the_other_side_are_suspects(tmp_path: Path) -> None:
    located_N3 = np.array([(17.0 * (index // 5 % 3 - 1), 0.0, -35.0 * (index % 5)) for index in range(25)])
    marked_N3, error_N = located_N3 + 2.0, np.full(25, 2.0)
    assert list(find_suspects(1, marked_N3, located_N3, error_N)) == []
    left, right = (SITES.index(parse_row_id_site(f"{side}_neural_foraminal_narrowing_l3_l4")) for side in SIDES)
    marked_N3[left] = located_N3[right]
    marked_N3[0] = located_N3[1]
    marked_N3[4] = located_N3[4] + [0.0, 80.0, 0.0]
    marked_N3[20] = np.nan
    found = {suspect.site: suspect for suspect in find_suspects(1, marked_N3, located_N3, error_N)}
    assert {site: suspect.reason for site, suspect in found.items()} == {
        "left_neural_foraminal_narrowing_l3_l4": "on the other side",
        "spinal_canal_stenosis_l1_l2": "1 level too low",
        "spinal_canal_stenosis_l5_s1": "far from the located position",
    }
    # No mark is suspect if the expected error of the located positions is as large.
    assert list(find_suspects(1, marked_N3, located_N3, np.full(25, 60.0))) == []
    root = DataRoot(tmp_path)
    write_suspects(root.logs("locator"), list(found.values()), "these marks")
    read, outdated = read_suspects(root, "these marks")
    assert [suspect.distance_mm for suspect in read] == [80.0, 35.0, 17.0] and outdated == 0
    assert "L3-L4 left neural foraminal narrowing: marked 17 mm" in describe_suspect(read[-1])
    write_suspects(root.logs("older"), list(found.values()), "other marks")
    assert read_suspects(root, "these marks") == (read, 1) and read_suspects(root, None) == ([], 2)
    for damaged in (b"study_id\n1\n", b"\xff\xfe\n", (root.logs("locator") / "suspects.csv").read_bytes()[:-30]):
        (root.logs("older") / "suspects.csv").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"older/suspects\.csv: not a table of suspects"):
            read_suspects(root, "these marks")


def test_levels_counted_without_the_sacrum_have_a_large_expected_error(study: Study, marked: MarkedStudy) -> None:
    images = sagittal_images(study)
    located_N3 = np.where(np.isfinite(marked.position_N3), marked.position_N3, 0.0)
    assert level_count_error_mm(images, located_N3) == 0.0
    # Black rows do not count as visible.
    dark = [replace(image, grey_3HW=image.grey_3HW.copy()) for image in images]
    for image in dark:
        _, row = image.frame.to_pixel(located_N3[LOWEST_CANAL])
        image.grey_3HW[:, int(row) + 3 :] = 0
    assert level_count_error_mm(dark, located_N3) > MAX_EXPECTED_ERROR_MM


def test_a_site_that_was_not_located_counts_as_an_error() -> None:
    true_SN3 = np.zeros((4, 25, 3)) + np.arange(25)[:, None] * 40.0
    located_SN3 = true_SN3 + 1.0
    located_SN3[0] = np.nan
    errors = PositionErrors(located_SN3, true_SN3, np.where(np.isnan(located_SN3[..., 0]), np.nan, 2.0))
    assert errors.not_located == 25 and errors.right_level_share == 0.75
    for row in errors.by_condition():
        assert row.found.value == 0.75 and row.median.value == pytest.approx(np.sqrt(3))
        assert row.percentile_95.value == np.inf


def test_a_few_miscounted_studies_do_not_change_the_error_scale() -> None:
    random = np.random.default_rng(0)
    squared_ratios = (random.normal(size=(2000, 3)) ** 2).sum(axis=1) / 3  # of errors that are as large as expected
    assert _error_scale(squared_ratios) == pytest.approx(1.0, abs=0.05)
    assert _error_scale([*4 * squared_ratios]) == pytest.approx(2.0, abs=0.1)
    assert _error_scale([*squared_ratios, *np.full(100, (35 / 2.5) ** 2)]) < 1.1


def test_every_located_site_has_a_level_confidence(root: DataRoot, tmp_path: Path, study: Study) -> None:
    """A locator that was trained before level confidences were known has none; a damaged calibration is refused."""
    final = tmp_path / "final"
    shutil.copytree(root.run("locator") / "final", final)
    content = json.loads((final / LOCATOR).read_text())
    calibration = {"temperature": 0.3, "studies": 20}  # the networks of four steps see no spine to calibrate on
    (final / LOCATOR).write_text(json.dumps({**content, "level_confidence": calibration}))
    located = load_locator(final).locate(study)
    assert located is not None and located.level_confidence is not None
    assert 0 < located.level_confidence <= (calibration["studies"] + 1) / (calibration["studies"] + 2)
    placed = make_placer(final, None).place(study, {})
    assert max(position.level_confidence or 1.0 for position in placed.values()) <= round(located.level_confidence, 4)
    assert all(position.expected_error_mm for position in placed.values())
    loaded = load_locator(final)
    fitted = LevelCalibration(0.25, 30, (-1.0, -0.5, 0.0, 2.0, 1.5))
    rule, height = ScoreRule(0.4, 14.0, 0.01, 0.6), FieldHeight(-0.0144, 0.0532, 786)
    save_locator(
        replace(loaded, level_calibration=fitted, score_rule=rule, field_height=height), tmp_path / "saved", {}
    )
    saved = load_locator(tmp_path / "saved")
    assert (saved.level_calibration, saved.score_rule, saved.field_height) == (fitted, rule, height)
    assert (loaded.score_rule, loaded.field_height) == (DEFAULT_RULE, None)  # four studies have no distribution
    for name in ("level_ratio", "near_mm", "min_support", "height_weight"):
        for number in (-0.1 if name == "height_weight" else 0, 1.5 if name != "near_mm" else float("inf"), "half"):
            damaged_rule = {**content["score_rule"], name: number}
            (final / LOCATOR).write_text(json.dumps({**content, "score_rule": damaged_rule}))
            with pytest.raises(ValueError, match=r"level_ratio is .*at most 1|could not convert"):
                load_locator(final)
    unweighted = {key: value for key, value in content["score_rule"].items() if key != "height_weight"}
    (final / LOCATOR).write_text(json.dumps({**content, "score_rule": unweighted}))
    assert load_locator(final).score_rule == replace(DEFAULT_RULE, height_weight=1.0)  # what it was calibrated with
    older = {key: value for key, value in content.items() if key not in ("score_rule", "field_height")}
    for ratio in (0, 1.5, "half"):
        (final / LOCATOR).write_text(json.dumps({**older, "level_ratio": ratio}))
        with pytest.raises(ValueError, match=r"level_ratio is .*at most 1|could not convert"):
            load_locator(final)
    (final / LOCATOR).write_text(json.dumps({**older, "level_ratio": 0.5}))
    assert load_locator(final).score_rule == ScoreRule(0.5, 12.0, 0.02, 1.0)  # its calibration belongs to this rule
    (final / LOCATOR).write_text(json.dumps(older))
    assert load_locator(final).score_rule.level_ratio == 1.0  # in still older locators levels weigh the same
    assert load_locator(final).score_rule == replace(DEFAULT_RULE, height_weight=1.0)
    assert load_locator(final).field_height is None
    (final / LOCATOR).write_text(json.dumps({**content, "field_height": {**height.to_json(), "studies": float("inf")}}))
    with pytest.raises(ValueError, match="not a locator"):
        load_locator(final)
    for damaged in ({}, {"temperature": 0, "studies": 3}, {"temperature": "hot", "studies": 3}, [1.0, 2], "high"):
        (final / LOCATOR).write_text(json.dumps({**content, "level_confidence": damaged}))
        with pytest.raises(ValueError, match="not a locator"):
            load_locator(final)
    del content["level_confidence"]
    (final / LOCATOR).write_text(json.dumps(content))
    older = load_locator(final).locate(study)
    assert older is not None and older.level_confidence is None
    np.testing.assert_array_equal(older.position_N3, located.position_N3)
    assert all(position.level_confidence is None for position in older.reliable_positions.values())


@pytest.mark.parametrize("turned", [False, True])
def test_a_copy_without_its_lower_end_shows_what_lies_above_it(study: Study, marked: MarkedStudy, turned: bool) -> None:
    if turned:  # rows run from feet to head
        study = replace(study, series=tuple(_lying_down(series) for series in study.series))
    cut = lower_end_cut_off(study, marked.position_N3)
    ends = set()
    for before, after in zip(study.series, cut.series, strict=True):
        if before.view is View.AXIAL_T2:
            assert after is before
            continue
        for one, other in zip(before.slices, after.slices, strict=True):
            assert one.frame is not None and other.frame is not None and other.grey.shape == other.frame.shape
            pixels = np.stack(np.meshgrid(*map(np.arange, other.grey.shape[::-1])), axis=-1)
            back = np.rint(one.frame.to_pixel(other.frame.to_patient(pixels))).astype(int)
            np.testing.assert_array_equal(other.grey, one.grey[back[..., 1], back[..., 0]])
            whole, left = (
                image.frame.to_patient([[0, 0], np.subtract(image.shape[::-1], 1)])[:, 2] for image in (one, other)
            )
            assert left.max() == pytest.approx(whole.max(), abs=2e-3) and left.min() > whole.min() + 5
            ends.add(round(float(left.min())))
    assert max(ends) - min(ends) <= 2  # all series end at the same height
    canal = [index for index, site in enumerate(SITES) if site.condition is Condition.SPINAL_CANAL_STENOSIS]
    lowest_mm = np.nanmin(marked.position_N3[canal, 2])
    assert -17 <= min(ends) - lowest_mm <= 47  # between 15 mm below the lowest mark and 45 mm above it, by whole rows
    assert lower_end_cut_off(study, np.full((25, 3), np.nan)) is study
    above = lower_end_cut_off(study, marked.position_N3 + np.array([0.0, 0.0, 250.0]))
    assert all(series.view is View.AXIAL_T2 or not series.slices for series in above.series)  # too little is left


def test_the_report_is_of_the_chain_that_the_calibrated_locator_chooses(
    root: DataRoot, study: Study, marked: MarkedStudy
) -> None:
    bare = replace(load_locator(SHIPPED), level_calibration=None)
    held_out = detect_in(bare, marked, study)
    for sure_of in SHIFTS[1:4]:
        odds = tuple(50.0 if shift == sure_of else 0.0 for shift in SHIFTS)
        calibrated = replace(bare, level_calibration=LevelCalibration(0.5, 60, odds))
        again = as_it_would_locate(calibrated, held_out, [marked], root.processed("train"))
        reported, used = again.locate(calibrated), calibrated.locate(study)
        assert reported is not None and used is not None and (again is held_out) is (sure_of == 0)
        np.testing.assert_allclose(reported.position_N3, used.position_N3, atol=1e-6)
        assert reported.level_confidence == used.level_confidence


def _lying_down(series: Series) -> Series:
    """Return a sagittal series whose images are turned by 90 degrees, with frames that say so."""
    if series.view is View.AXIAL_T2:
        return series
    slices = []
    for image in series.slices:
        frame = image.frame
        assert frame is not None
        corner = tuple(frame.to_patient((0, frame.shape[0] - 1)).tolist())
        upwards = tuple(-number for number in frame.column_direction)
        turned = Frame(corner, upwards, frame.row_direction, frame.spacing_mm[::-1], frame.shape[::-1])
        slices.append(replace(image, source=np.rot90(image.grey, -1), frame=turned))
    return replace(series, slices=tuple(slices))


def test_blank_slices_give_no_detections(locator: Locator, study: Study) -> None:
    blank = replace(
        study,
        series=tuple(
            replace(series, slices=tuple(replace(image, source=np.zeros_like(image.grey)) for image in series.slices))
            for series in study.series
        ),
    )
    located = locator.locate(blank)
    assert located is not None and located.detections == ()
    assert np.isfinite(located.position_N3).all() and (located.expected_error_N > MAX_EXPECTED_ERROR_MM).all()
