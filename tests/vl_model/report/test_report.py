"""report.json against the metrics, and the page against its requirements."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from data_prep.conversion.crops import open_crops
from data_prep.conversion.pairs import read_dataset
from data_prep.sites import SITES, Side
from vl_model.data.site_rows import group_sites
from vl_model.data.site_table import CONDITIONS, SiteTable, full_table, row_keys, site_table
from vl_model.evaluation.cross_fitting import (
    HeldOut,
    better_head,
    cross_fit_kinds,
    fit_grader,
    fit_heads,
    predict_held_out,
    predict_raw,
    split_studies,
)
from vl_model.evaluation.embeddings import Embeddings
from vl_model.evaluation.grader import KINDS, read_grader, write_grader
from vl_model.evaluation.predictions import read_predictions, write_predictions
from vl_model.report.example_sites import choose_example_sites, tile_as_png
from vl_model.report.number_words import number
from vl_model.report.report import write_report
from vl_model.report.report_content import baseline_block, compare_runs, held_out_metrics
from vl_model.report.report_text import baseline_loss, percent, report_text
from vl_model.report.summary import summary
from vl_model.scoring.metrics import brier, competition_metric, weighted_log_loss
from vl_model.scoring.priors import ColumnPrior
from workspace.json_files import plain


def embeddings_of(root: Path, signal: float, seed: int = 0) -> Embeddings:
    """Return made-up embeddings of the tiny data set: noise, and severity along one direction per condition."""
    rows = group_sites(read_dataset(root / "train" / "processed_data").pairs)
    rng = np.random.default_rng(seed)
    direction_KD = np.random.default_rng(5).normal(size=(3, 16))
    image_ND = rng.normal(size=(len(rows), 16))
    for place, row in enumerate(rows):
        image_ND[place] += signal * int(row.severity or 0) * direction_KD[CONDITIONS.index(row.site.condition)]
    image_ND /= np.linalg.norm(image_ND, axis=1, keepdims=True)
    return Embeddings(rows, image_ND.astype(np.float32), {"checkpoint": "c" * 64, "dataset": "d" * 64})


def held_out_of(root: Path, signal: float, seed: int = 0) -> HeldOut:
    embeddings = embeddings_of(root, signal, seed)
    split = split_studies(embeddings.table, {study: study % 5 for study in embeddings.table.study_ids}, [0, 1, 2])
    text_SCD = np.random.default_rng(1).normal(size=(25, 3, 16)).astype(np.float32)
    return predict_held_out(fit_heads(split.train, embeddings, text_SCD, 5.0), split, embeddings, seed=0)


def report_of(held_out: HeldOut) -> dict:
    names = {
        "schema_version": 1,
        "run": "<first>",
        "head": "linear_probe",
        "fingerprint": {"checkpoint": "c" * 64, "dataset": "d" * 64},
        "held_out_folds": [0, 1, 2],
        "training_studies": 2,
        "training_settings": {"model": "lumbar-tiny", "pretrained": None},
    }
    return plain({**names, **held_out_metrics(held_out), "comparison": None})


def test_the_numbers_are_those_of_the_metrics(tiny_root: Path) -> None:
    held_out = held_out_of(tiny_root, signal=1.0)
    report = report_of(held_out)
    for head in ("zero_shot", "linear_probe"):
        for kind in KINDS:
            prob_N3 = held_out.prob_N3[head, kind]
            metric = competition_metric(held_out.table, prob_N3).as_dict()
            assert {name: report["metric"][head][kind][name] for name in metric} == pytest.approx(metric)
            low, high = report["metric"][head][kind]["interval"]["score"]
            assert low <= metric["score"] <= high
            graded = held_out.table.labelled_N
            assert report["brier"][head][kind] == brier(held_out.table.severity_N[graded], prob_N3[graded])
            foraminal = held_out.table.take(graded & (held_out.table.condition_N == 1))
            block = report["conditions"][head][kind]["neural_foraminal_narrowing"]
            assert block["n"] == len(foraminal) == np.sum(block["confusion"])
            assert block["weighted_log_loss"] == pytest.approx(metric["foraminal"])
            assert sum(level["n"] for level in block["levels"].values()) == block["n"]
    assert report["n"]["rows"] == sum(report["n"]["severities"].values())
    assert report["n"]["by_part"]["any_severe"] == report["n"]["studies"] == 4
    constant = weighted_log_loss(
        held_out.table.take(held_out.table.condition_N == 2), held_out.baseline_N3[held_out.table.condition_N == 2]
    )
    assert report["constant_baseline"]["subarticular"] == pytest.approx(constant)
    json.dumps(report, allow_nan=False)


def test_signal_is_found_and_ranked(tiny_root: Path) -> None:
    strong, weak = report_of(held_out_of(tiny_root, 2.0)), report_of(held_out_of(tiny_root, 0.0))
    assert strong["metric"]["linear_probe"]["metric_optimal"]["score"] < strong["constant_baseline"]["score"]
    assert strong["auc"]["linear_probe"]["raw"]["at_least_moderate"] > 0.9
    assert abs(weak["auc"]["linear_probe"]["raw"]["at_least_moderate"] - 0.5) < 0.3
    assert "better than the best constant" in summary(strong)[0]


def test_predictions_are_written_read_and_compared(tiny_root: Path, tmp_path: Path) -> None:
    ours, theirs = held_out_of(tiny_root, 2.0), held_out_of(tiny_root, 0.3, seed=1)
    write_predictions(tmp_path / "predictions.csv", theirs)
    read = read_predictions(tmp_path / "predictions.csv")
    table, prob_N3 = read["linear_probe", "calibrated"]
    assert row_keys(table) == row_keys(theirs.table) and np.array_equal(table.severity_N, theirs.table.severity_N)
    assert prob_N3 == pytest.approx(theirs.prob_N3["linear_probe", "calibrated"], abs=1e-8)
    result = plain(compare_runs(ours, "other", read))
    block = result["heads"]["linear_probe"]
    assert block["difference"]["score"]["value"] == pytest.approx(block["ours"]["score"] - block["theirs"]["score"])
    assert block["difference"]["score"]["value"] < 0
    assert result["studies"] == 4 and better_head(ours) == "linear_probe"
    other_labels = SiteTable(table.study_N, table.site_N, (table.severity_N + 2) % 3)
    with pytest.raises(ValueError, match="different labels"):
        compare_runs(ours, "other", {key: (other_labels, prob) for key, (_, prob) in read.items()})
    with pytest.raises(ValueError, match="different studies"):
        compare_runs(ours, "other", {key: (table.take(np.arange(0)), prob[:0]) for key, (_, prob) in read.items()})


def test_a_site_without_image_gets_the_constant_of_its_column(tiny_root: Path, tmp_path: Path) -> None:
    embeddings = embeddings_of(tiny_root, 1.0)
    study = embeddings.rows[0].study_id
    kept = [i for i, row in enumerate(embeddings.rows) if row.study_id != study or row.site != SITES[0]]
    fewer = Embeddings(tuple(embeddings.rows[i] for i in kept), embeddings.image_ND[kept], embeddings.fingerprint)
    split = split_studies(embeddings.table, {s: s % 5 for s in embeddings.table.study_ids}, [study % 5, 2])
    heads = fit_heads(split.train, fewer, np.ones((25, 3, 16), dtype=np.float32), 5.0)
    held_out = predict_held_out(heads, split, fewer, seed=0)
    [row] = np.flatnonzero((split.held_out.study_N == study) & (split.held_out.site_N == 0))
    assert not held_out.imaged_N[row] and held_out.imaged_N.sum() == len(held_out.table) - 1
    frequencies = ColumnPrior().fit(split.train).prob_SC_[0]
    for kind in ("raw", "calibrated"):
        assert held_out.prob_N3["zero_shot", kind][row] == pytest.approx(frequencies)

    raw = predict_raw(heads, split, fewer)
    grader = fit_grader({"first": heads}, raw, split.train, "linear_probe", fewer.fingerprint)
    write_grader(tmp_path, grader)
    again = read_grader(tmp_path, {"checkpoint": "c" * 64})
    table = full_table([study, 999], site_table([]))
    for kind in KINDS:
        for head in ("zero_shot", "linear_probe"):
            first, second = (g.predict_proba(table, [fewer], kind, head) for g in (grader, again))
            assert np.array_equal(first, second) and first.sum(axis=1) == pytest.approx(np.ones(50))
    assert np.array_equal(again.predict_proba(table, [fewer], "raw")[0], again.prior.prob_SC_[0])
    with pytest.raises(ValueError, match="an earlier model"):
        read_grader(tmp_path, {"checkpoint": "other"})
    with pytest.raises(ValueError, match=r"no heads yet; run eval_vl\.py first"):
        read_grader(tmp_path / "nowhere")
    arrays = (tmp_path / "heads.npz").read_bytes()
    for damaged in (b"", arrays[:200]):
        (tmp_path / "heads.npz").write_bytes(damaged)
        with pytest.raises(ValueError, match="cannot be read"):
            read_grader(tmp_path)


class Tags(HTMLParser):
    """Parser that checks that tags are closed, and collects addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_self_contained_and_complete(tiny_root: Path, tmp_path: Path) -> None:
    held_out = held_out_of(tiny_root, 2.0)
    processed = tiny_root / "train" / "processed_data"
    cases = choose_example_sites(held_out, "linear_probe", read_dataset(processed).pairs)
    write_report(tmp_path, report_of(held_out), cases, open_crops(processed))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    assert not tags.open
    assert all(address.startswith(("data:image/png", "#")) for address in tags.addresses)
    assert page.count("<svg") == 3 and "currentColor" in page and "prefers-color-scheme: dark" in page
    assert "Not a medical device" in page and "&lt;first&gt;" in page and "<first>" not in page
    assert "nan" not in re.sub(r"data:image[^\"]*", "", page).lower().replace("finance", "")
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert {"metric", "constant_baseline", "ece", "auc", "n", "cases"} <= set(content)
    assert len(content["cases"]) == len(cases) == page.count('class="case"') > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_the_page_shows_calibration_beside_its_floor_and_says_what_intervals_leave_out(
    tiny_root: Path, tmp_path: Path
) -> None:
    held_out = held_out_of(tiny_root, 2.0)
    report = {**report_of(held_out), "settings": {"head": "auto"}}
    processed = tiny_root / "train" / "processed_data"
    cases = [replace(choose_example_sites(held_out, "linear_probe", read_dataset(processed).pairs)[0])]
    cases = [replace(cases[0], probabilities=(0.9962, 0.0038, 0.0))]
    write_report(tmp_path, report, cases, open_crops(processed))
    page = " ".join((tmp_path / "report.html").read_text(encoding="utf-8").split())
    assert "They leave out what another training, another seed, or another fit of heads and calibrators would" in page
    assert "&gt; 99 % \N{MIDDLE DOT} &lt; 1 % \N{MIDDLE DOT} 0 %" in page
    text, said = report_text(report), "because it is the better head on these very studies"
    assert said in page and said in text and said not in report_text(report_of(held_out))
    for head in ("zero_shot", "linear_probe"):
        for kind in ("raw", "calibrated"):
            block = report["calibration"][head][kind]
            floor = f"95 % to {number(block['ece_floor']['high'])}"
            assert f'<td>{number(block["ece_floor"]["mean"])}<br><span class="range">{floor}</span></td>' in page
        assert f"ECE {report['ece'][head]['calibrated']['top_label']:.3f} (perfect probabilities would show" in text
    for condition, block in report["calibration"]["linear_probe"]["calibrated"]["conditions"].items():
        for cut, words in (("at_least_moderate", "moderate or severe"), ("severe", "severe")):
            slope = block["cuts"][cut]["slope"]
            low, high = (number(bound, 2) for bound in slope["interval"])
            assert f"<td>{condition.replace('_', ' ')}, {words}</td><td>{block['cuts'][cut]['events']}</td>" in page
            assert f'{number(slope["value"], 2)}<br><span class="range">{low} to {high}</span>' in page
    for block in (report["metric"]["zero_shot"]["raw"], report["constant_baseline"]):
        low, high = (number(bound) for bound in block["interval"]["foraminal"])
        assert f'<td>{number(block["foraminal"])}<br><span class="range">{low} to {high}</span></td>' in page
    level = report["conditions"]["linear_probe"]["raw"]["spinal_canal_stenosis"]["levels"]["l4_l5"]
    assert level["interval"]["weighted_log_loss"][0] < level["weighted_log_loss"]


def test_a_share_of_almost_all_is_not_called_all() -> None:
    shares = (0.996, 0.9949, 1.0, 0.004, 0.0051, 0.0)
    assert [percent(share) for share in shares] == ["> 99 %", "99 %", "100 %", "< 1 %", "1 %", "0 %"]


def test_examples_belong_to_their_group(tiny_root: Path) -> None:
    held_out = held_out_of(tiny_root, 1.0)
    pairs = read_dataset(tiny_root / "train" / "processed_data").pairs
    cases = choose_example_sites(held_out, "linear_probe", pairs, count=3)
    for case in cases:
        guess = int(np.argmax(case.probabilities))
        assert case.crops and sum(case.probabilities) == pytest.approx(1)
        true, predicted = case.group.split(", predicted ")
        words = {"normal or mild": 0, "moderate": 1, "severe": 2}
        assert (case.severity, guess) == (words[true], words[predicted])
    for group in {case.group for case in cases}:
        studies = [case.study_id for case in cases if case.group == group]
        assert len(studies) == len(set(studies)) <= 3


def test_right_axial_tiles_are_mirrored_back() -> None:
    tile = np.zeros((3, 4, 4), dtype=np.uint8)
    tile[1, :, 0] = 255
    as_stored = tile_as_png(tile, Side.LEFT, is_axial=True)
    assert tile_as_png(tile, Side.RIGHT, is_axial=True) == tile_as_png(tile[:, :, ::-1], None, is_axial=True)
    assert tile_as_png(tile, Side.RIGHT, is_axial=False) == as_stored != tile_as_png(tile, Side.RIGHT, is_axial=True)


def test_missing_values_are_a_dash_and_null() -> None:
    assert (
        number(None) == "\N{EN DASH}"
        and number(-0.5, 2) == "\N{MINUS SIGN}0.50"
        and number(0.5, 1, sign=True) == "+0.5"
    )
    assert plain({"a": [np.float64("nan"), np.int64(3)], "b": np.array([1.5])}) == {"a": [None, 3], "b": [1.5]}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("absent", "graded", "missing"),
    [
        ([1], ["spinal", "subarticular", "any_severe"], "foraminal"),
        ([1, 2], ["spinal", "any_severe"], "foraminal and subarticular"),
        ([0], ["foraminal", "subarticular"], "spinal and any severe"),
        ([0, 1], ["subarticular"], "spinal, foraminal and any severe"),
        ([0, 2], ["foraminal"], "spinal, subarticular and any severe"),
    ],
    ids=str,
)
def test_a_cohort_that_grades_some_conditions_is_measured_on_these(
    tiny_root: Path, tmp_path: Path, absent: list[int], graded: list[str], missing: str
) -> None:
    """It has no score, but intervals, a ratio to the constant and a verdict; no dash or nan is in its place."""
    whole = held_out_of(tiny_root, signal=2.0)
    severity_N = np.where(np.isin(whole.table.condition_N, absent), -1, whole.table.severity_N)
    held_out = replace(whole, table=replace(whole.table, severity_N=severity_N))
    report = report_of(held_out)
    heads = {head: report["metric"][head]["metric_optimal"]["graded_parts"] for head in report["metric"]}
    assert better_head(held_out) == min(heads, key=lambda head: heads[head])
    names = {condition.value for index, condition in enumerate(CONDITIONS) if index not in absent}
    assert set(report["n"]["graded_conditions"]) == names
    block, constant = report["metric"]["linear_probe"]["metric_optimal"], report["constant_baseline"]
    assert block["score"] is None and block["graded_parts"] == pytest.approx(np.mean([block[part] for part in graded]))
    low, high = block["interval"]["graded_parts"]
    assert low < block["graded_parts"] < high
    ratio = block["ratio_to_constant"]["graded_parts"]["value"]
    assert ratio == pytest.approx(block["graded_parts"] / constant["graded_parts"]) and ratio < 1

    _, heading, row, *others, last = report_text(report).splitlines()
    columns = ["mean", *graded] if len(graded) > 1 else graded
    assert heading.split() == " ".join(columns).replace("_", " ").split()
    assert float(row.split()[1]) == pytest.approx(constant["graded_parts"], abs=1e-3)
    assert f"{low:.3f} to {high:.3f}" in others[1] and f"{block['graded_parts']:.3f}" in others[1]
    assert f"no graded site for {missing}" in last and ("mean" in last) == (len(graded) > 1)

    first, second, *rest = summary(report)
    assert f"scores {block['graded_parts']:.3f} (95 % interval {low:.3f} to {high:.3f})" in first
    assert "better than the best constant answer" in first and number(constant["graded_parts"]) in first
    assert "no graded site for " + missing in second and all(name.replace("_", " ") in second for name in names)
    assert ("averaged" in rest[0]) == (len(names) > 1)
    processed = tiny_root / "train" / "processed_data"
    write_report(tmp_path, report, [], open_crops(processed))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"\bnan\b|\bNone\b", page) and page.count("<svg") == 3
    for condition in CONDITIONS:
        words = condition.value.replace("_", " ")
        assert (f"<td>{words}</td>" in page) == (condition.value in names) == (f">{words}<" in page)
    metric = page[page.index("The competition") : page.index("<h2>Calibration")]
    assert number(None) not in metric.replace("-optimal", "")
    both = compare_runs(held_out, "same", {key: (held_out.table, prob) for key, prob in held_out.prob_N3.items()})
    text = report_text(plain({**report, "comparison": both}))
    assert text.splitlines()[-1] == "linear probe minus same's: +0.000 (+0.000 to +0.000)"
    write_report(tmp_path, plain({**report, "comparison": both}), [], open_crops(processed))
    assert "+0.000 to +0.000" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_mean_of_all_parts_is_the_score(tiny_root: Path) -> None:
    report = report_of(held_out_of(tiny_root, signal=1.0))
    block = report["metric"]["zero_shot"]["metric_optimal"]
    assert block["graded_parts"] == block["score"] and block["interval"]["graded_parts"] == block["interval"]["score"]
    assert "graded" not in report_text(report).partition("\n")[2] and "Graded are" not in " ".join(summary(report))


def with_baseline(held_out: HeldOut, baseline: HeldOut) -> dict:
    """Return a report whose plain baseline is the linear probe of other embeddings of the same sites."""
    prob_N3 = {kind: baseline.prob_N3["linear_probe", kind] for kind in KINDS}
    return plain(report_of(held_out) | {"plain_baseline": baseline_block(held_out, prob_N3)})


def test_the_page_says_in_one_sentence_where_the_network_loses(tiny_root: Path, tmp_path: Path) -> None:
    strong, weak = held_out_of(tiny_root, 2.0), held_out_of(tiny_root, 0.2, seed=1)
    lost = with_baseline(weak, strong)
    [sentence] = [sentence for sentence in summary(lost) if "plain baseline" in sentence]
    assert sentence.startswith("The linear probe loses to the plain baseline in the whole score by ")
    assert baseline_loss(lost).replace("-", "\N{MINUS SIGN}") == sentence
    right_N3 = np.eye(3)[strong.table.severity_N] * 0.97 + 0.01
    won = with_baseline(replace(strong, prob_N3=dict.fromkeys(strong.prob_N3, right_N3)), weak)
    assert baseline_loss(won) == ""
    [sentence] = [sentence for sentence in summary(won) if "plain baseline" in sentence]
    assert sentence.startswith("The linear probe minus the plain baseline, which uses no network, is \N{MINUS SIGN}")
    assert not [line for line in report_text(won).splitlines() if "loses" in line]

    same = with_baseline(strong, strong)["plain_baseline"]
    assert same["metric"] == plain(report_of(strong))["metric"]["linear_probe"]
    zero = {"value": 0.0, "interval": [0.0, 0.0]}
    assert all(block == zero for block in same["heads_minus_baseline"]["linear_probe"].values())
    assert "loses" not in report_text(with_baseline(strong, strong))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"spinal": 0.1, "foraminal": -0.2, "score": -0.1}, "by 0.100 (+0.050 to +0.150), though its whole"),
        ({"foraminal": 0.02}, "baseline in foraminal by 0.020 (-0.030 to +0.070, not certain)."),
        (
            {"spinal": 0.1, "any_severe": 0.3, "subarticular": 0.2},
            "in subarticular by 0.200 (+0.150 to +0.250) and in",
        ),
        ({"spinal": -0.1, "any_severe": None}, None),
        ({"score": 0.06}, "in the whole score by 0.060 (+0.010 to +0.110)."),
    ],
)
def test_every_part_in_which_the_network_loses_is_named(values: dict[str, float | None], expected: str | None) -> None:
    parts = dict.fromkeys(("score", "spinal", "foraminal", "subarticular", "any_severe")) | values
    difference = {
        name: {"value": value, "interval": [None, None] if value is None else [value - 0.05, value + 0.05]}
        for name, value in parts.items()
    }
    loss = baseline_loss({"head": "zero_shot", "plain_baseline": {"heads_minus_baseline": {"zero_shot": difference}}})
    assert (expected in loss and loss.startswith("The prompt head loses")) if expected else loss == ""


def test_a_baseline_of_some_conditions_is_compared_by_part(tiny_root: Path) -> None:
    whole, weak = held_out_of(tiny_root, 1.5), held_out_of(tiny_root, 0.2, seed=1)

    def partial(held_out: HeldOut) -> HeldOut:
        table = held_out.table
        return replace(
            held_out, table=replace(table, severity_N=np.where(table.condition_N == 1, table.severity_N, -1))
        )

    report = with_baseline(partial(weak), partial(whole))
    text = report_text(report)
    assert "nan" not in text and "linear probe minus the plain baseline: foraminal +" in text
    assert "The linear probe loses to the plain baseline in foraminal by" in text
    assert any("loses to the plain baseline in foraminal" in sentence for sentence in summary(report))


def test_the_baseline_is_calibrated_as_the_heads_are(tiny_root: Path) -> None:
    embeddings = embeddings_of(tiny_root, 1.0)
    split = split_studies(embeddings.table, {study: study % 5 for study in embeddings.table.study_ids}, [0, 1, 2])
    heads = fit_heads(split.train, embeddings, np.ones((25, 3, 16), dtype=np.float32), 5.0)
    held_out = predict_held_out(heads, split, embeddings, seed=3)
    row_N = embeddings.rows_of(split.held_out)
    log_prob_N3 = heads["linear_probe"].predict_log_proba(split.held_out, embeddings.image_ND[row_N])
    raw = predict_raw(heads, split, embeddings)
    for kind, prob_N3 in cross_fit_kinds(log_prob_N3, raw, seed=3).items():
        assert np.array_equal(prob_N3, held_out.prob_N3["linear_probe", kind])


def test_folds_without_labels_or_without_training_studies_are_refused(tiny_root: Path) -> None:
    table = embeddings_of(tiny_root, 0.0).table
    fold_of = {study: study % 5 for study in table.study_ids}
    with pytest.raises(
        ValueError, match=r"held_out_folds \[7\]: no graded study in them; the data set has the folds 0, 1"
    ):
        split_studies(table, fold_of, [7])
    with pytest.raises(ValueError, match="is left to train on"):
        split_studies(table, fold_of, [0, 1, 2, 3, 4])
