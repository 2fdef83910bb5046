"""query_vl.py on the files of a run; the text tower is loaded only for words that are not understood."""

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
import pytest
from PIL import Image

from data_prep.conversion.pairs import read_dataset
from data_prep.sites import SITES, Severity
from tests.tiny_dataset import write_tiny_dataset
from vl_model.data.site_rows import group_sites
from vl_model.evaluation.cross_fitting import fit_grader, predict_raw, split_studies
from vl_model.evaluation.embeddings import Embeddings, fingerprint, read_embeddings, write_embeddings
from vl_model.evaluation.grader import Grader, read_grader, write_grader
from vl_model.evaluation.heads import LinearProbe, ZeroShotHead
from vl_model.model.settings import ModelSettings
from vl_model.model.site_model import build_site_model
from vl_model.model.site_model_files import load_site_model, save_site_model

SCRIPT = Path(__file__).parents[1] / "query_vl.py"
SEVERE_LEFT = "severe left foraminal narrowing at L4-L5"
STUDIES = 12


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


def test_the_answers_are_the_studies_with_the_highest_probability(root: Path, tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    dataset = read_dataset(root / "train" / "processed_data")
    with truth.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["study_id", "condition", "side", "level", "severity"])
        for pair in dataset.pairs:
            grade = "" if pair.severity is None else pair.severity.key
            table.writerow([pair.study_id, pair.site.condition, pair.site.side or "", pair.site.level, grade])

    done = ask(root, SEVERE_LEFT, "--json", "--save", str(tmp_path / "out"), "--truth", str(truth))
    assert (done.returncode, done.stderr) == (0, "")
    reply = json.loads(done.stdout)
    assert reply["query"]["levels"] == ["l4_l5"]
    assert (reply["studies"], reply["splits"]) == (STUDIES, ["train"])
    answers = reply["answers"]
    assert len(answers) == 5
    scores = [answer["probabilities"]["severe"] for answer in answers]
    assert scores == sorted(scores, reverse=True)

    # The same from the run's parts, the long way.
    run = root / "train" / "checkpoints" / "tiny"
    embeddings = read_embeddings(run / "embeddings" / "train", {})
    prob_N3 = read_grader(run / "heads").predict_proba(embeddings.table, [embeddings], "calibrated")
    severe = {
        row.study_id: prob_N3[place, Severity.SEVERE]
        for place, row in enumerate(embeddings.rows)
        if row.site.key == "left_neural_foraminal_narrowing_l4_l5"
    }
    assert [a["study_id"] for a in answers] == sorted(severe, key=lambda study: -severe[study])[:5]
    assert scores == pytest.approx(sorted(severe.values(), reverse=True)[:5])

    grade_of = {(p.study_id, p.site.key, p.view): p for p in dataset.pairs}
    for answer in answers:
        pair = grade_of[answer["study_id"], "left_neural_foraminal_narrowing_l4_l5", answer["view"]]
        assert (answer["image"], answer["box"], answer["series_id"]) == (pair.image, list(pair.box), pair.series_id)
        assert answer["truth"] == (None if pair.severity is None else pair.severity.key)
        assert answer["seen"] == (pair.fold not in (0, 1))
        picture, crop = (Path(path) for path in answer["files"])
        with Image.open(root / "train" / "processed_data" / pair.image) as whole, Image.open(picture) as drawn:
            assert drawn.size == whole.size
            assert drawn.getpixel((60, 60)) == (whole.getpixel((60, 60)),) * 3
        with Image.open(crop) as cut:
            assert cut.size == (384, 384)
    with Image.open(tmp_path / "out" / "answers.png") as sheet:
        assert sheet.width > 1000


def test_the_printed_table_has_the_parsed_query_and_the_answers(root: Path) -> None:
    done = ask(root, "severe left canal stenosis", "--top", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "understood  severe, spinal canal stenosis" in done.stdout
    assert "canal has no side" in done.stdout
    assert f"searched    {STUDIES} studies of run 'tiny' (train)" in done.stdout
    table = done.stdout.split("\n\n")[1].splitlines()
    assert [line[:1] for line in table[1:3]] == ["1", "2"]


def test_an_understood_text_imports_no_torch(root: Path) -> None:
    ask(root, SEVERE_LEFT)  # leaves an index behind
    check = (
        f"import sys, runpy; sys.argv = ['query_vl.py', '--root', {str(root)!r}, '--run', 'tiny', {SEVERE_LEFT!r}]\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'open_clip', 'sklearn', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=SCRIPT.parent)
    assert done.returncode == 0, done.stderr


def test_words_that_are_not_understood_are_ranked_by_the_text_tower(root: Path) -> None:
    done = ask(root, "facet arthropathy", "--json")
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)["answers"]
    assert all(answer["score"] is None for answer in answers)
    run = root / "train" / "checkpoints" / "tiny"
    embeddings = read_embeddings(run / "embeddings" / "train", {})
    [text_D] = load_site_model(run / "final").embed_texts(["facet arthropathy"]).numpy()
    cosine_N = embeddings.image_ND @ text_D
    best: dict[int, float] = {}
    for row, cosine in zip(embeddings.rows, cosine_N, strict=True):
        best[row.study_id] = max(cosine, best.get(row.study_id, -1.0))
    assert [a["study_id"] for a in answers] == sorted(best, key=lambda study: -best[study])[:5]
    assert [a["likeness"] for a in answers] == pytest.approx(sorted(best.values(), reverse=True)[:5], abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("",), "is empty"),
        (("severe", "--top", "0"), "--top 0"),
        (("severe", "--run", "tinny"), "--run 'tinny': no such run in .*; the runs there are tiny"),
        (("severe", "--run", "../tiny"), "a run's name may contain only letters"),
        (("severe", "--split", "test"), "test/processed_data/dataset.json: no such file; prepare_data.py writes it"),
        (("severe", "--truth", "nowhere.csv"), "nowhere.csv"),
        (("severe", "--tops", "3"), "did you mean --top"),
        ((), "text"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(root: Path, arguments: tuple[str, ...], complaint: str) -> None:
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


def test_an_index_of_other_heads_is_made_again_and_embeddings_of_another_model_are_refused(
    root: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(root, tmp_path / "root")
    run = copy / "train" / "checkpoints" / "tiny"
    before = json.loads(ask(copy, SEVERE_LEFT, "--json").stdout)["answers"]
    write_grader(run / "heads", replace(read_grader(run / "heads"), best="zero_shot"))
    after = json.loads(ask(copy, SEVERE_LEFT, "--json").stdout)["answers"]
    assert [a["score"] for a in before] != [a["score"] for a in after], "the index was not made again"

    card = run / "final" / "site_model.json"
    card.write_text(card.read_text() + " ")
    done = ask(copy, SEVERE_LEFT)
    assert done.returncode == 2
    assert "embeddings of another checkpoint; run eval_vl.py again" in done.stderr
