"""What a report tells of studies, sets, whole studies, groups and failures, and each sentence of its summary."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.conversion.crops import open_crops
from data_prep.conversion.pairs import Dataset, read_dataset
from data_prep.sites import SITES, Severity
from tests.vl_model.calibration.drawn_studies import drawn_studies
from vl_model.calibration.prediction_sets import PredictionSets, contains
from vl_model.data.site_table import CONDITIONS, UNLABELLED, Floats, SiteTable
from vl_model.evaluation.cross_fitting import HeldOut, held_out_sets
from vl_model.evaluation.grader import HEADS, KINDS
from vl_model.evaluation.label_ranking import rank_suspect_labels
from vl_model.evaluation.predictions import read_predictions, write_predictions
from vl_model.report.example_sites import choose_example_sites
from vl_model.report.failures import failures_block
from vl_model.report.number_words import number, share, times
from vl_model.report.report import PLANTED_SHARE, write_report
from vl_model.report.report_content import baseline_block, curves_block, held_out_metrics
from vl_model.report.report_text import percent
from vl_model.report.set_content import sets_block
from vl_model.report.study_answer_content import answers_block
from vl_model.report.study_flow import flow_block
from vl_model.report.subgroups import SiteFacts, site_facts, subgroups_block, thirds
from vl_model.report.summary import summary
from vl_model.report.suspect_content import SHOWN, TOLD, suspect_examples, suspects_block
from vl_model.report.use_and_limits import guideline_items
from vl_model.scoring.metrics import auc, weighted_log_loss
from workspace.json_files import plain

HEAD = "linear_probe"


def drawn_held_out(studies: int, seed: int = 0) -> HeldOut:
    """Return held-out studies whose calibrated probabilities are true, and the others distorted."""
    drawn = drawn_studies(studies, seed)
    true_N3, distorted_N3 = np.exp(drawn.log_true_N3), np.exp(drawn.log_head_N3)
    constant_N3 = np.tile(np.bincount(drawn.table.severity_N, minlength=3) / len(drawn.table), (len(drawn.table), 1))
    prob_N3: dict[tuple, Floats] = {
        (head, kind): distorted_N3 if kind == "raw" else true_N3 for head in HEADS for kind in KINDS
    }
    return HeldOut(drawn.table, np.ones(len(drawn.table), dtype=bool), constant_N3, prob_N3)


def no_dataset(held_out: HeldOut) -> Dataset:
    studies = held_out.table.study_ids
    return Dataset({"study_ids": studies, "folds": {"of_study": {str(study): 0 for study in studies}}}, ())


def sections(held_out: HeldOut) -> dict:
    table = held_out.table
    sets = PredictionSets().fit(held_out.prob_N3[HEAD, "calibrated"], table)
    rng = np.random.default_rng(0)
    facts = SiteFacts(
        np.where(table.study_N % 2 == 0, "annotated", "located"),
        np.full(len(table), 0.5),
        rng.integers(10, 30, len(table)).astype(float),
        (table.study_N % 3).astype(float),
    )
    return {
        "study_flow": flow_block(no_dataset(held_out), table, held_out, Path("nowhere")),
        "study_answers": answers_block(held_out, HEAD),
        "prediction_sets": sets_block(held_out, HEAD, sets),
        "curves": curves_block(held_out, HEAD),
        "subgroups": subgroups_block(held_out, HEAD, facts),
        "failures": failures_block(held_out, HEAD),
        "suspect_labels": suspects_block(*rank_suspect_labels(held_out, HEAD), held_out, others=7),
    }


def whole_report(held_out: HeldOut) -> dict:
    names = {
        "schema_version": 1,
        "run": "first",
        "head": HEAD,
        "fingerprint": {"checkpoint": "c" * 64, "dataset": "d" * 64},
        "held_out_folds": [0],
        "training_studies": 2,
        "training_settings": {"model": "lumbar-tiny"},
        "settings": {"head": "auto"},
    }
    return plain({**names, **held_out_metrics(held_out), "comparison": None, **sections(held_out)})


def without(held_out: HeldOut, rows: np.ndarray) -> HeldOut:
    severity_N = np.where(rows, UNLABELLED, held_out.table.severity_N)
    return replace(held_out, table=replace(held_out.table, severity_N=severity_N))


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    return drawn_held_out(60)


@pytest.fixture(scope="module")
def report(held_out: HeldOut) -> dict:
    return whole_report(held_out)


def test_each_sentence_of_the_summary_is_in_the_report(report: dict) -> None:
    block, constant = report["metric"][HEAD]["metric_optimal"], report["constant_baseline"]
    raw, calibrated = (report["calibration"][HEAD][kind] for kind in ("raw", "calibrated"))

    def digits(values: list, places: int) -> list[str]:
        return [number(value, places) for value in values]

    def told_of(figure: dict) -> list[str]:
        return digits([figure["value"], *figure["interval"]], 2)

    expected = [
        [
            *(str(report["n"]["studies"]), str(report["n"]["rows"])),
            *digits([block["score"], *block["interval"]["score"], constant["score"]], 3),
            *told_of(block["ratio_to_constant"]["score"]),
        ],
        [
            *told_of(raw["auc"]["severe"]),
            *told_of(raw["auc"]["at_least_moderate"]),
            *digits([raw["ece"], calibrated["ece"], *calibrated["ece_floor"].values()], 3),
        ],
        [
            share(grade["coverage"]["value"])[:-2]
            for level in ("90", "95")
            for grade in report["prediction_sets"][level]["grades"].values()
        ],
        *(
            [
                *(str(answer["events"]), str(answer["studies"])),
                *told_of(answer["auc"]),
                *told_of(answer["sensitivity_at_specificity"]["90"]),
            ]
            for answer in report["study_answers"].values()
        ),
        [],
    ]
    sentences = summary(report)
    assert len(sentences) == len(expected)
    for sentence, values in zip(sentences, expected, strict=True):
        told = re.findall(r"\d+(?:\.\d+)?", re.sub(r"(?:95 % (?:interval|of them|prediction)|90 %)", "", sentence))
        assert told == values, sentence


def test_the_further_sentences_of_the_summary_are_in_the_report(held_out: HeldOut, report: dict) -> None:
    """Joined folds, places as in use, the plain baseline, conditions without grades, and sites without an image."""
    partial = replace(without(held_out, held_out.table.condition_N != 1), imaged_N=held_out.table.study_N > 2)
    whole = whole_report(partial)
    block = whole["metric"][HEAD]["metric_optimal"]
    baseline = dict.fromkeys(KINDS, partial.prob_N3[HEAD, "raw"])
    folds = [{"run": f"five-{fold}"} for fold in range(5)]
    places = {
        "reason": "",
        "sources": {"located": 571, "atlas": 29},
        "located": {HEAD: {"metric_optimal": {**block, "graded_parts": 0.777}}},
        "ratio": {HEAD: {"graded_parts": {"value": 1.234, "interval": [1.111, 1.345]}}},
    }
    further = plain({"fold_runs": folds, "places": places, "plain_baseline": baseline_block(partial, baseline)})
    said = summary({**whole, **further})

    def only(words: str) -> list[str]:
        [sentence] = [sentence for sentence in said if words in sentence]
        return re.findall(r"\d+(?:\.\d+)?", sentence.replace("95 % interval", ""))

    low, high = (number(bound) for bound in block["interval"]["graded_parts"])
    constant, ratio = whole["constant_baseline"]["graded_parts"], block["ratio_to_constant"]["graded_parts"]
    assert only("evaluated as one") == ["5"]
    assert only("held-out studies (") == [
        *(str(whole["n"]["studies"]), str(whole["n"]["rows"]), number(block["graded_parts"]), low, high),
        *(number(constant), *(number(value, 2) for value in (ratio["value"], *ratio["interval"]))),
    ]
    assert only("Graded are") == [str(whole["conditions"][HEAD]["raw"]["neural_foraminal_narrowing"]["n"])]
    assert only("places as in use") == ["29", "571", "0.777", low, high, "1.23", "1.11", "1.34"]
    difference = further["plain_baseline"]["heads_minus_baseline"][HEAD]["foraminal"]
    expected = [f"{abs(value):.3f}" for value in (difference["value"], *difference["interval"])]
    assert only("plain baseline") == expected
    assert only("have no image") == [str(whole["n"]["rows_without_image"])] and whole["n"]["rows_without_image"] > 0
    unknown = summary({**whole, "places": {"reason": "the locator is lost"}})
    assert "Places as in use are not measured: the locator is lost." in unknown


def test_sets_are_counted_by_condition_grade_and_level(held_out: HeldOut, report: dict) -> None:
    table = held_out.table
    for level, set_N in held_out_sets(held_out, HEAD, 0).items():
        block = report["prediction_sets"][str(level)]
        for name, rows in (("l4_l5", table.level_N == 3), ("l5_s1", table.level_N == 4)):
            for grade in Severity:
                own = rows & (table.severity_N == grade)
                found = block["levels"][name][grade.key]
                assert found["n"] == own.sum()
                assert found["coverage"]["value"] == contains(set_N, table.severity_N)[own].mean()
                assert found["size"] == np.mean([bin(bits).count("1") for bits in set_N[own]])
        assert sum(block["sizes"]) == pytest.approx(1)
        assert sum(grade["n"] for grade in block["grades"].values()) == len(table)


def test_groups_are_those_of_their_rows(held_out: HeldOut, report: dict) -> None:
    table, groups = held_out.table, report["subgroups"]["groups"]
    assert report["subgroups"]["alike"] == ["in-plane spacing"]
    assert set(groups) == {"level", "side", "source of the place", "slices", "axial series"}
    for kind in groups:
        assert sum(group["n"] for group in groups[kind].values()) == len(table)
    rows = table.study_N % 3 == 2
    several = groups["axial series"]["several"]
    assert several["studies"] == len(np.unique(table.study_N[rows])) and several["n"] == rows.sum()
    prob_N3 = held_out.prob_N3[HEAD, "metric_optimal"]
    assert several["weighted_log_loss"]["value"] == pytest.approx(weighted_log_loss(table.take(rows), prob_N3[rows]))
    areas = [
        auc(table.severity_N[own] == 2, held_out.prob_N3[HEAD, "raw"][own, 2])
        for own in (rows & (table.condition_N == index) for index in range(3))
    ]
    assert several["auc"]["severe"]["value"] == pytest.approx(np.mean(areas))


def test_thirds_are_of_each_condition_and_keep_equal_values_together() -> None:
    sites = np.array([0, 0, 0, 0, 0, 0, 5, 5, 5])
    table = SiteTable(np.arange(9), sites, np.zeros(9, dtype=np.int64))
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, np.nan, 9.0, 9.0, 9.0])
    assert thirds(table, values).tolist() == [0, 0, 1, 1, 2, -1, 0, 0, 0]


def test_facts_of_images_are_read_from_the_data_set(tiny_root: Path, tmp_path: Path) -> None:
    processed = tiny_root / "train" / "processed_data"
    dataset = read_dataset(processed)
    rows = [(pair.study_id, SITES.index(pair.site)) for pair in dataset.pairs[:3]]
    table = SiteTable(np.array([s for s, _ in rows]), np.array([x for _, x in rows]), np.zeros(3, dtype=np.int64))
    lines = ["study_id,series_id,spacing_column_mm,view"]
    for pair in dataset.pairs:
        lines.append(f"{pair.study_id},{pair.series_id},0.5,{pair.view.value}")
    (tmp_path / "slices.csv").write_text("\n".join(lines) + "\n")
    facts = site_facts(dataset, table, tmp_path / "slices.csv")
    assert facts.spacing_N.tolist() == [0.5] * 3 and (facts.slices_N >= 1).all()
    assert facts.source_N.tolist() == [dataset.pairs[0].source.value] * 3
    (tmp_path / "slices.csv").write_text("study_id\nx\n")
    for damaged in (tmp_path / "slices.csv", tmp_path / "nowhere"):
        unknown = site_facts(dataset, table, damaged)
        assert "cannot be read" in unknown.reason and np.isnan(unknown.spacing_N).all()
        assert np.isnan(unknown.axial_N).all() and np.array_equal(unknown.source_N, facts.source_N)


def test_the_flow_adds_up_and_tells_why(tmp_path: Path) -> None:
    held_out = drawn_held_out(12)
    held_out = without(held_out, held_out.table.study_N == 3)
    held_out = replace(held_out, imaged_N=held_out.table.study_N != 4)
    table = held_out.table
    others = SiteTable(table.study_N + 100, table.site_N, table.severity_N)
    labels = SiteTable(*(np.concatenate(columns) for columns in zip(*map(_columns, (table, others)), strict=True)))
    dataset = Dataset({"study_ids": [*labels.study_ids, 999], "folds": {"of_study": {}}}, ())
    faults = tmp_path / "faults.csv"
    faults.write_text("study_id,kind\n999,missing_study\n4,not_dicom\n4,not_dicom\n")
    flow = flow_block(dataset, labels, held_out, faults)
    assert flow["studies"] == {"named": 25, "imaged": 0, "graded": 22, "held_out": 12, "scored": 11}
    assert flow["not_imaged"] == {"missing_study": 1, "no view that shows a site": 23, "not_dicom": 1}
    assert flow["not_graded"] == 3 and flow["graded_not_held_out"] == 11 and flow["scored_not_imaged"] == 1
    assert flow["sites"] == {"of_scored_studies": 275, "graded": 275, "imaged": 250}
    counts = flow["prevalence"]["held_out"]
    assert sum(sum(grades.values()) for grades in counts.values()) == 275
    assert counts == flow["prevalence"]["others"]


def _columns(table: SiteTable) -> tuple[np.ndarray, ...]:
    return table.study_N, table.site_N, table.severity_N


def test_failures_are_the_cells_of_the_confusion_matrix(held_out: HeldOut, report: dict) -> None:
    conditions = report["conditions"][HEAD]["calibrated"]
    total = np.sum([np.array(block["confusion"]) for block in conditions.values()], axis=0)
    names = [grade.key for grade in Severity]
    for failure in report["failures"]:
        true, predicted = names.index(failure["true"]), names.index(failure["predicted"])
        assert failure["failures"] == total[true, predicted] == sum(failure["conditions"].values())
        assert failure["sites"] == total[true].sum() and failure["certain"] <= failure["failures"]
    assert len({(failure["true"], failure["predicted"]) for failure in report["failures"]}) == 6


def test_suspects_are_those_of_the_list_and_shown(held_out: HeldOut, report: dict) -> None:
    table, prob_N3 = held_out.table, held_out.prob_N3[HEAD, "calibrated"]
    known_N = prob_N3[np.arange(len(table)), table.severity_N]
    is_suspect_N, block = prob_N3.max(axis=1) > known_N, report["suspect_labels"]
    assert (block["ranked"], block["listed"], block["studies"]) == (len(table), is_suspect_N.sum(), 60)
    for number_of, condition in enumerate(CONDITIONS):
        own_N = table.condition_N == number_of
        assert block["conditions"][condition.value] == {"ranked": own_N.sum(), "listed": (is_suspect_N & own_N).sum()}
    assert len(block["first"]) == TOLD < block["listed"]
    ratio_N = prob_N3.max(axis=1) / known_N
    assert [row["times"] for row in block["first"]] == pytest.approx(np.sort(ratio_N)[::-1][:TOLD])
    for row in block["first"]:
        [place] = np.flatnonzero((table.study_N == row["study_id"]) & (table.site_N == _site_index(row["site"])))
        assert row["severity"] == list(Severity)[table.severity_N[place]].key
        assert row["most_probable"] == list(Severity)[prob_N3[place].argmax()].key


def test_the_page_shows_suspects_and_says_what_they_are(tiny_root: Path, tmp_path: Path) -> None:
    processed = tiny_root / "train" / "processed_data"
    pairs = read_dataset(processed).pairs
    keys = sorted({(pair.study_id, SITES.index(pair.site)) for pair in pairs})[:40]
    severity_N = np.arange(len(keys)) % 3
    table = SiteTable(np.array([study for study, _ in keys]), np.array([site for _, site in keys]), severity_N)
    right_N3 = np.eye(3)[severity_N] * 0.9 + 0.1 / 3
    wrong_N3 = right_N3.copy()
    wrong_N3[:12] = wrong_N3[:12, [1, 2, 0]]
    for prob_N3, listed in ((right_N3, 0), (wrong_N3, 12)):
        prob_of = {(head, kind): prob_N3 for head in HEADS for kind in KINDS}
        found = HeldOut(table, np.ones(len(table), dtype=bool), np.full((len(table), 3), 1 / 3), prob_of)
        labels, ranked = rank_suspect_labels(found, HEAD)
        report = {**whole_report(found), "suspect_labels": plain(suspects_block(labels, ranked, found, others=3))}
        write_report(tmp_path, report, [], open_crops(processed), suspects=suspect_examples(labels, pairs))
        page = " ".join((tmp_path / "report.html").read_text(encoding="utf-8").split())
        section = page[page.index("<h2>Suspect labels") : page.index("<h2>Intended use")]
        if not listed:
            assert (
                "is less probable than another grade: there is nothing to list" in section and "<table" not in section
            )
            continue
        assert f"Of {len(keys)} known grades {listed} ({percent(listed / len(keys))}) are less probable" in section
        assert section.count('class="case"') == SHOWN and "of 3 graded training studies nothing is known" in section
        assert "no grade is changed" in section and f"{percent(PLANTED_SHARE)} of the first 1 %" in section
        assert "train_vl.py --drop_suspects" in section
        for row in report["suspect_labels"]["first"]:
            study = f'<span class="range">study {row["study_id"]}</span>'
            assert f"<td>{row['rank']}. {row['words']}<br>{study}</td>" in section
            assert f"<td>{times(row['times'])}</td>" in section


def test_the_share_of_planted_labels_is_the_one_that_was_printed() -> None:
    printed = (Path(__file__).parents[3] / "docs" / "results" / "suspect_probes.txt").read_text(encoding="utf-8")
    [line] = [line for line in printed.splitlines() if line.startswith("margin ")]
    assert float(line.split()[1]) == PLANTED_SHARE


def _site_index(key: str) -> int:
    return [site.key for site in SITES].index(key)


def test_predictions_have_the_sets_of_calibrated_probabilities(held_out: HeldOut, tmp_path: Path) -> None:
    write_predictions(tmp_path / "predictions.csv", held_out)
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert lines[0].endswith("severe,set_90,set_95")
    assert all((",calibrated," in line) != line.endswith(",,") for line in lines[1:])
    assert len(read_predictions(tmp_path / "predictions.csv")["zero_shot", "raw"][0]) == len(held_out.table)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", ["ten studies", "one condition", "no moderate site", "nothing severe"])
def test_the_page_has_every_section_whatever_is_graded(case: str, tiny_root: Path, tmp_path: Path) -> None:
    held_out = drawn_held_out(10 if case == "ten studies" else 30, seed=1)
    table = held_out.table
    if case == "one condition":
        held_out = without(held_out, table.condition_N != 1)
    if case == "no moderate site":
        held_out = without(held_out, table.severity_N == Severity.MODERATE)
    if case == "nothing severe":
        held_out = without(held_out, table.severity_N == Severity.SEVERE)
    report = whole_report(held_out)
    write_report(tmp_path, report, [], open_crops(tiny_root / "train" / "processed_data"))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", page)
    headings = ("Studies and sites", "Prediction sets", "Answers about whole studies", "Subgroups", "Failures by kind")
    for heading in (*headings, "Suspect labels"):
        assert f"<h2>{heading}</h2>" in page
    assert ("TRIPOD+AI: 52 items" in page) and ("CLAIM 2024: 44 items" in page)
    assert "<td>\N{EN DASH}</td>" not in page
    json.dumps(report, allow_nan=False)
    said = " ".join(summary(report))
    if case == "one condition":
        assert "any severe neural foraminal narrowing" in said and "any severe canal stenosis (" not in said
        assert "No graded site tells of any severe canal stenosis." in page
        assert "Nothing is known of spinal canal stenosis and subarticular stenosis" in page
        for words in ("spinal canal stenosis", "subarticular stenosis"):
            assert f"<td>{words}" not in page and f">{words}<" not in page
    if case == "no moderate site":
        assert "In every 90 % set, for want of graded sites: moderate (spinal canal stenosis)" in page
        assert "No graded site is moderate" in page and "of the moderate sites" not in said
    if case == "nothing severe":
        assert "Whether a study has" not in said and "too few" in page


def test_examples_are_of_every_kind_of_failure(tiny_root: Path) -> None:
    dataset = read_dataset(tiny_root / "train" / "processed_data")
    keys = sorted({(pair.study_id, SITES.index(pair.site)) for pair in dataset.pairs})
    severity_N = np.arange(len(keys)) % 3
    table = SiteTable(np.array([study for study, _ in keys]), np.array([site for _, site in keys]), severity_N)
    prob_N3 = np.eye(3)[(np.arange(len(keys)) // 3) % 3] * 0.9 + 0.03
    held_out = HeldOut(table, np.ones(len(table), dtype=bool), prob_N3, {(HEAD, "calibrated"): prob_N3})
    groups = {example.group for example in choose_example_sites(held_out, HEAD, dataset.pairs)}
    assert len(groups) == 6 and {"severe, predicted normal or mild", "normal or mild, predicted severe"} <= groups


def test_every_item_of_the_guidelines_is_answered_or_cannot_be() -> None:
    items = guideline_items()
    assert {name: len(rows) for name, rows in items.items()} == {"TRIPOD+AI": 52, "CLAIM 2024": 44}
    assert [item for item, _, _ in items["CLAIM 2024"]] == [str(n + 1) for n in range(44)]
    for rows in items.values():
        assert all(topic and where for _, topic, where in rows) and len({item for item, _, _ in rows}) == len(rows)
    told = " ".join(where for rows in items.values() for *_, where in rows)
    documents = set(re.findall(r"[\w/]+\.(?:md|py)", told))
    repository = Path(__file__).parents[3]
    assert documents and all((repository / name).is_file() for name in documents)
