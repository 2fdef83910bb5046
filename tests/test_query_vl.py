"""query_vl.py on the files of a run: answers, what they are worth, many questions at once, reports, and wrong input."""

import csv
import json
import re
import runpy
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_prep.conversion.pairs import read_dataset
from data_prep.sites import SITES, Condition, Severity
from tests.tiny_dataset import write_tiny_dataset
from vl_model.data.site_rows import group_sites
from vl_model.evaluation.cross_fitting import fit_grader, predict_raw, split_studies
from vl_model.evaluation.embeddings import Embeddings, fingerprint, read_embeddings, write_embeddings
from vl_model.evaluation.grader import Grader, read_grader, write_grader
from vl_model.evaluation.heads import LinearProbe, ZeroShotHead
from vl_model.evaluation.typicality import Typicality
from vl_model.model.settings import ModelSettings
from vl_model.model.site_model import build_site_model
from vl_model.model.site_model_files import load_site_model, save_site_model
from vl_model.queries.likeness import neutral_texts

SCRIPT = Path(__file__).parents[1] / "query_vl.py"
SEVERE_LEFT = "severe left foraminal narrowing at L4-L5"
STUDIES = 60
#: Folds 0 and 1 of five are held out.
UNSEEN = 24


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a run named `tiny` and files of every stage; the embeddings depend on the severity."""
    root = tmp_path_factory.mktemp("root")
    processed, run = root / "train" / "processed_data", root / "train" / "checkpoints" / "tiny"
    write_tiny_dataset(processed, studies=STUDIES)
    dataset = read_dataset(processed)
    random = np.random.default_rng(0)
    for image in {pair.image for pair in dataset.pairs}:
        (processed / image).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (100, 110), dtype=np.uint8)).save(processed / image)

    run.mkdir(parents=True)
    record = {"held_out_folds": [0, 1], "dataset_fingerprint": dataset.fingerprint, "settings": {}, "finished": True}
    (run / "run.json").write_text(json.dumps(record))
    model = build_site_model(ModelSettings(model="lumbar-tiny", pretrained=None, tune="full"))
    save_site_model(model, run / "final")

    rows = group_sites(dataset.pairs)
    image_ND = random.normal(size=(len(rows), model.towers.embed_dim)).astype(np.float32)
    image_ND[:, 0] += [6.0 * (row.severity or 0) for row in rows]
    image_ND /= np.linalg.norm(image_ND, axis=1, keepdims=True)
    embeddings = Embeddings(rows, image_ND, fingerprint(run / "final", dataset.fingerprint))
    write_embeddings(run / "embeddings" / "train", embeddings)
    write_grader(run / "heads", fitted_grader(embeddings))
    return root


def fitted_grader(embeddings: Embeddings) -> Grader:
    table = embeddings.table
    fold_of = {row.study_id: row.fold for row in embeddings.rows if row.fold is not None}
    split = split_studies(table, fold_of, [0, 1])
    inside = table.of_studies(split.train.study_ids)
    text_SCD = np.random.default_rng(1).normal(size=(len(SITES), 3, embeddings.image_ND.shape[1]))
    heads = {
        "zero_shot": ZeroShotHead(10.0).fit(text_SCD),
        "linear_probe": LinearProbe().fit(split.train, embeddings.image_ND[inside]),
    }
    raw = predict_raw(heads, split, embeddings)  # type: ignore[arg-type]
    return fit_grader({"tiny": heads}, raw, split.train, "linear_probe", embeddings.fingerprint)  # type: ignore[dict-item]


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def ask(root: Path, *arguments: str) -> Done:
    """Run the script in this process, which has already imported torch."""
    out, err = StringIO(), StringIO()
    command = [SCRIPT.name, "--root", str(root), "--run", "tiny", *arguments]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(SCRIPT), run_name="__main__")
    assert isinstance(end.value.code, int)
    return Done(end.value.code, out.getvalue(), err.getvalue())


def severe_of(root: Path, site: str = "left_neural_foraminal_narrowing_l4_l5") -> dict[int, float]:
    """P(severe) of a site in each study that no training saw, from the run's parts."""
    run = root / "train" / "checkpoints" / "tiny"
    embeddings = read_embeddings(run / "embeddings" / "train", {})
    prob_N3 = read_grader(run / "heads").predict_proba(embeddings.table, [embeddings], "calibrated")
    return {
        row.study_id: float(prob_N3[place, Severity.SEVERE])
        for place, row in enumerate(embeddings.rows)
        if row.site.key == site and row.fold in (0, 1)
    }


def test_the_answers_are_the_unseen_studies_with_the_highest_probability(root: Path, tmp_path: Path) -> None:
    dataset = read_dataset(root / "train" / "processed_data")
    done = ask(root, SEVERE_LEFT, "--json", "--least", "0", "--save", str(tmp_path / "out"))
    said = done.stderr.splitlines()
    assert done.returncode == 0 and said[0] == "making the query index of 'train', for the first time"
    assert len(said) == 2 and "the pictures have no letters and no scale" in said[1], "there is no slices.csv"
    reply = json.loads(done.stdout)
    assert reply["query"]["line"] == "any(left foramen, L4-L5) = severe; P >= 0"
    assert (reply["studies"], reply["left_out"], reply["splits"]) == (UNSEEN, STUDIES - UNSEEN, ["train"])
    answers, severe = reply["answers"], severe_of(root)
    assert [a["study_id"] for a in answers] == sorted(severe, key=lambda study: -severe[study])[:5]
    assert [a["score"] for a in answers] == pytest.approx(sorted(severe.values(), reverse=True)[:5], abs=1e-6)
    assert not any(answer["seen"] for answer in answers)

    pair_of = {(p.study_id, p.site.key, p.view): p for p in dataset.pairs}
    for answer in answers:
        pair = pair_of[answer["study_id"], "left_neural_foraminal_narrowing_l4_l5", answer["view"]]
        assert (answer["image"], answer["box"], answer["series_id"]) == (pair.image, list(pair.box), pair.series_id)
        assert answer["truth"] == (None if pair.severity is None else pair.severity.key)
        assert answer["matches"] == (None if pair.severity is None else pair.severity is Severity.SEVERE)
        assert answer["files"] and all(Path(path).is_file() for path in answer["files"])
    with Image.open(tmp_path / "out" / "answers.png") as sheet:
        assert sheet.width > 1000


def test_what_is_printed(root: Path, tmp_path: Path) -> None:
    done = ask(
        root, "at least moderate left canal stenosis with facet cysts", "--top", "2", "--csv", str(tmp_path / "a.csv")
    )
    lines = done.stdout.splitlines()
    assert lines[1] == 'not read    "facet cysts": the answers are to the text without it'
    assert lines[2] == "read as     any(canal) >= moderate; top 2"
    assert "the spinal canal has no side" in lines[3]
    assert re.match(r"expected    [\d.]+ of \d+ studies match \(\d+ to \d+\)", lines[4])
    assert re.match(r"worth       of \d+ held-out studies with known grades \d+ match; average precision ", lines[5])
    assert lines[6].startswith(
        f"searched    {UNSEEN} studies of run 'tiny' (train); {STUDIES - UNSEEN} that it was trained on"
    )
    table = done.stdout.split("\n\n")[1].splitlines()
    assert [line[:1] for line in table[1:3]] == ["1", "2"]
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2"] and rows[0]["condition"] == "spinal_canal_stenosis"

    again = ask(root, "--ask", "any(canal) >= moderate; top 2")
    assert again.stdout.splitlines()[0] == lines[2] and again.stdout.split("\n\n")[1] == done.stdout.split("\n\n")[1]


def test_seen_studies_are_answers_only_if_asked_for(root: Path) -> None:
    reply = json.loads(ask(root, SEVERE_LEFT, "--seen", "--top", "60", "--least", "0", "--json").stdout)
    assert (reply["studies"], reply["left_out"]) == (STUDIES, 0)
    assert {answer["study_id"] for answer in reply["answers"] if answer["seen"]}
    assert "trained on" in ask(root, SEVERE_LEFT, "--seen", "--top", "60", "--least", "0").stdout


def test_the_truth_of_a_file_is_shown_instead_of_the_labels(root: Path, tmp_path: Path) -> None:
    truth = tmp_path / "train.csv"
    sites = [site.key for site in SITES if site.condition is Condition.NEURAL_FORAMINAL_NARROWING]
    rows = [[study, *["Moderate"] * len(sites)] for study in range(1, STUDIES)]
    with truth.open("w", newline="") as file:
        csv.writer(file).writerows([["study_id", *sites], *rows])
    reply = json.loads(ask(root, SEVERE_LEFT, "--truth", str(truth), "--json").stdout)
    assert {answer["truth"] for answer in reply["answers"]} <= {"moderate", None}


def test_many_questions_give_the_same_bytes_twice(root: Path, tmp_path: Path) -> None:
    questions = tmp_path / "cohort.yaml"
    questions.write_text(
        "canal: severe canal stenosis\nfree: all(foramen) = normal/mild; top 3\nwrong: severe normal canal\n"
        "odd: severe canal stenosis with oedema\n"
    )
    for folder in ("one", "two"):
        done = ask(root, "--queries", str(questions), "--save", str(tmp_path / folder))
        assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["canal.csv", "free.csv", "odd.csv", "summary.json"]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())["queries"]
    assert "two grades are named" in summary["wrong"]["error"]
    assert summary["canal"]["searched"] == UNSEEN == summary["canal"]["assessable"]
    assert summary["odd"]["rest"] == "oedema" and summary["free"]["answers"] <= 3
    assert "wrong  not answered:" in done.stdout

    (tmp_path / "one" / "notes.txt").write_text("mine")
    refused = ask(root, "--queries", str(questions), "--save", str(tmp_path / "one"))
    assert refused.returncode == 2 and "holds 'notes.txt', which is not a table of these questions" in refused.stderr


def test_a_report_is_compared_clause_by_clause(root: Path, tmp_path: Path) -> None:
    severe = severe_of(root)
    study = max(severe, key=lambda one: severe[one])
    report = tmp_path / "report.txt"
    report.write_text(
        "L4-L5: Severe left foraminal narrowing. No left foraminal narrowing.\n"
        "The conus is normal in position. Cervical spine: normal.\n"
    )
    compared = json.loads(ask(root, "--report", str(report), "--study", str(study), "--json").stdout)
    first, second = compared["clauses"]
    assert first["line"] == "any(left foramen, L4-L5) = normal/mild"
    assert second["line"] == "any(left foramen, L4-L5) = severe"
    assert first["score"] < second["score"] == pytest.approx(severe[study], abs=1e-6)
    assert len(compared["not_read"]) == 2
    assert "not compared:" in ask(root, "--report", str(report), "--study", str(study)).stdout
    for arguments, complaint in (
        (("--report", str(report)), "needs --study as well"),
        (("--report", str(report), "--study", "99999"), "--study 99999: not among the"),
        (("--report", str(tmp_path / "none.txt"), "--study", "1"), "cannot be read"),
    ):
        done = ask(root, *arguments)
        assert done.returncode == 2 and complaint in done.stderr


def test_similar_cases_are_the_nearest_sites_of_other_studies(root: Path) -> None:
    [study, *_] = severe_of(root)
    done = ask(root, "--like", f"{study}:left foramen, L4-L5", "--seen", "--json")
    answers = json.loads(done.stdout)["answers"]
    embeddings = read_embeddings(root / "train" / "checkpoints" / "tiny" / "embeddings" / "train", {})
    of_site = {
        (row.study_id, row.site.key): image_D for row, image_D in zip(embeddings.rows, embeddings.image_ND, strict=True)
    }
    own = of_site[study, "left_neural_foraminal_narrowing_l4_l5"]
    best: dict[int, float] = {}
    for (other, key), image_D in of_site.items():
        if other != study and key.endswith("neural_foraminal_narrowing_l4_l5"):
            best[other] = max(best.get(other, -1.0), float(own @ image_D))
    assert [a["study_id"] for a in answers] == sorted(best, key=lambda one: -best[one])[:5]
    assert [a["likeness"] for a in answers] == pytest.approx(sorted(best.values(), reverse=True)[:5], abs=1e-5)


def test_an_understood_text_imports_nothing_heavy(root: Path) -> None:
    ask(root, SEVERE_LEFT)  # leaves an index behind
    check = (
        f"import sys, runpy; sys.argv = ['query_vl.py', '--root', {str(root)!r}, '--run', 'tiny', {SEVERE_LEFT!r}]\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'open_clip', 'sklearn', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=SCRIPT.parent)
    assert done.returncode == 0, done.stderr


def test_free_words_are_used_only_if_asked_for_and_if_they_beat_nonsense(root: Path) -> None:
    done = ask(root, "facet arthropathy")
    assert done.returncode == 2 and "nothing that is graded was asked" in done.stderr and "--likeness" in done.stderr
    reply = json.loads(ask(root, "facet arthropathy", "--likeness", "--json").stdout)
    run = root / "train" / "checkpoints" / "tiny"
    embeddings = read_embeddings(run / "embeddings" / "train", {})
    model = load_site_model(run / "final")
    [text_D] = model.embed_texts(["facet arthropathy"]).detach().numpy()
    highest = float((embeddings.image_ND @ text_D).max())
    null_ND = model.embed_texts(list(neutral_texts())).detach().numpy()
    needed = float((embeddings.image_ND @ null_ND.T).max())
    assert reply["likeness"]["highest"] == pytest.approx(highest, abs=1e-5)
    assert reply["likeness"]["needed"] == pytest.approx(needed, abs=1e-5)
    assert reply["likeness"]["is_told"] == (highest > needed) == bool(reply["answers"])
    text = ask(root, "severe canal stenosis with facet arthropathy", "--likeness").stdout
    assert ("this model cannot tell" in text) == (highest <= needed)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "nothing was asked; ask, for example"),
        (("",), "is empty|nothing was asked"),
        (("?!",), "nothing was asked"),
        (("severe", "--ask", "any(canal) = severe"), "--ask cannot be asked together with text"),
        (("--ask", "any(kanal) = severe"), "found 'kanal' at character 5, expected canal"),
        (("--ask", "any(canal, L4-L5) = severe and any(canal, L4-L5) = moderate"), "contradicts itself"),
        (("--like", "5"), "expected STUDY:SITE"),
        (("--like", "5:foramen"), "'foramen' is not one site"),
        (("--like", "777:left foramen, L4-L5"), "study 777: not among the 60 studies"),
        (("severe", "--any_level"), "--any_level is for --like only"),
        (("severe", "--top", "0"), "--top 0"),
        (("severe", "--top", "1001"), "--top 1001: at most 1000 answers"),
        (("severe", "--least", "2"), "--least 2"),
        (("severe", "--run", "tinny"), "--run 'tinny': no such run in .*; the runs there are tiny"),
        (("severe", "--run", "../tiny"), "a run's name may contain only letters"),
        (("severe", "--split", "test"), "test/processed_data/dataset.json: no such file; prepare_data.py writes it"),
        (("severe", "--split", "clinic"), "'clinic': neither a split"),
        (("severe", "--truth", "nowhere.csv"), "nowhere.csv"),
        (("severe", "--tops", "3"), "did you mean --top"),
        (("severe stenosis at T12-L1",), '"T12-L1": is not graded'),
        (("--queries", "x.yaml"), "needs --save as well"),
        (("--queries", "nowhere.yaml", "--save", "x"), "cannot be read"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(root: Path, arguments: tuple[str, ...], complaint: str) -> None:
    ask(root, SEVERE_LEFT)  # leaves an index behind, whose making would be said
    done = ask(root, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert re.search(complaint, done.stderr), done.stderr


def test_the_error_for_a_run_without_heads_has_the_command(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "root")
    shutil.rmtree(copy / "train" / "checkpoints" / "tiny" / "heads")
    done = ask(copy, SEVERE_LEFT)
    assert done.returncode == 2
    assert "run eval_vl.py first" in done.stderr


def test_answers_with_images_of_another_kind_are_named(root: Path, tmp_path: Path) -> None:
    """The test split has the studies of the train split, the second answer three times as far away as all others."""
    copy = shutil.copytree(root, tmp_path / "root")
    run = copy / "train" / "checkpoints" / "tiny"
    shutil.copytree(copy / "train" / "processed_data", copy / "test" / "processed_data")
    asked = (SEVERE_LEFT, "--least", "0", "--split", "test")
    embeddings = read_embeddings(run / "embeddings" / "train", {})
    write_embeddings(run / "embeddings" / "test", embeddings)
    assert "atypical" not in ask(copy, *asked).stdout
    second = json.loads(ask(copy, *asked, "--json").stdout)["answers"][1]
    assert second["typicality"] is None
    moved_ND = embeddings.image_ND.copy()
    moved_ND[embeddings.table.study_N == second["study_id"]] *= 3
    write_embeddings(run / "embeddings" / "test", replace(embeddings, image_ND=moved_ND))
    dimensions = moved_ND.shape[1]  # embeddings have the norm 1, which is their distance here
    known = Typicality(np.zeros((3, dimensions)), np.eye(dimensions), np.r_[np.full(15, 0.5), np.full(15, 2.0)])
    write_grader(run / "heads", replace(read_grader(run / "heads"), typicality={"tiny": known}))
    answers = json.loads(ask(copy, *asked, "--json").stdout)["answers"]
    [rank] = [answer["rank"] for answer in answers if answer["study_id"] == second["study_id"]]
    told = {answer["rank"]: answer["typicality"] for answer in answers}
    assert told == {other: pytest.approx(1 / 31 if other == rank else 16 / 31) for other in told}
    done = ask(copy, *asked, "--csv", str(tmp_path / "answers.csv"))
    assert f"atypical    answer {rank}: less typical images than 95 % of the held-out studies" in done.stdout
    table = pd.read_csv(tmp_path / "answers.csv").groupby("rank")["typicality"].first()
    assert table[rank] == pytest.approx(1 / 31, abs=1e-5)
    seen = json.loads(ask(copy, SEVERE_LEFT, "--least", "0", "--split", "train", "--json").stdout)["answers"]
    assert {answer["typicality"] for answer in seen} == {None}


def test_an_index_of_other_heads_is_made_again_and_embeddings_of_another_model_are_refused(
    root: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(root, tmp_path / "root")
    run = copy / "train" / "checkpoints" / "tiny"
    before = json.loads(ask(copy, SEVERE_LEFT, "--json", "--least", "0").stdout)["answers"]
    write_grader(run / "heads", replace(read_grader(run / "heads"), best="zero_shot"))
    done = ask(copy, SEVERE_LEFT, "--json", "--least", "0")
    assert "making the query index of 'train' again: the heads changed" in done.stderr
    assert [a["score"] for a in before] != [a["score"] for a in json.loads(done.stdout)["answers"]]

    card = run / "final" / "site_model.json"
    card.write_text(card.read_text() + " ")
    done = ask(copy, SEVERE_LEFT)
    assert done.returncode == 2
    assert "embeddings of another checkpoint; run eval_vl.py again" in done.stderr
