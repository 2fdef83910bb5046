"""The weights of a site's views: those of the model's pooling, in the API, the command line and at the boxes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from data_prep.conversion.crops import open_crops
from data_prep.sites import View
from tests.vl_model.page.opened_page import OPENED, Page, ask, until
from tests.vl_model.page.test_app import client_of, server_of
from vl_model import load_run
from vl_model.data.site_rows import group_sites
from vl_model.data.tiles import tiles_for_model

REPOSITORY = Path(__file__).parents[3]
QUESTION = ["--ask", "any(left foramen, L4-L5) <= moderate; P >= 0", "--seen"]


@pytest.fixture(scope="module")
def root(evaluated_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root whose run has learned which tiles to look at; its heads are those of before."""
    root = shutil.copytree(evaluated_root, tmp_path_factory.mktemp("weighted") / "root")
    path = root / "train" / "checkpoints" / "first" / "final" / "site_model.safetensors"
    tensors = load_file(path)
    tensors["pooling.query_D"] = torch.from_numpy(
        np.random.default_rng(0).normal(size=tensors["pooling.query_D"].shape)
    )
    save_file({name: tensor.float() for name, tensor in tensors.items()}, path)
    run = load_run(root, "first")
    heads = run.folder / "heads" / "heads.json"
    card = json.loads(heads.read_text())
    card["fingerprint"]["checkpoint"] = run.checkpoint
    heads.write_text(json.dumps(card))
    for split in ("train", "test"):
        run.embed(split)
    return root


def pooled(root: Path, split: str, study_id: int) -> dict[str, dict[str, float]]:
    """Return site key -> view -> the softmax of its tiles' scores, computed one tile at a time."""
    run = load_run(root, "first")
    model, towers = run.model, run.model.towers
    crops = open_crops(run.processed[split])
    found = {}
    for row in group_sites(run.dataset(split).pairs):
        if row.study_id != study_id:
            continue
        scores = []
        for crop in row.crops:
            tile = torch.from_numpy(np.array(crops[crop][None, None]))
            [[tile_3HW]] = tiles_for_model(tile, towers.image_size, towers.mean, towers.std)
            with torch.no_grad():
                [tile_D] = towers.encode_images(tile_3HW[None])
                scores.append(float(tile_D @ model.pooling.query_D) * len(tile_D) ** 0.5)
        shares = np.exp(scores) / np.exp(scores).sum()
        found[row.site.key] = {
            view.value: float(sum(s for s, v in zip(shares, row.views, strict=True) if v is view))
            for view in View
            if view in row.views
        }
    return found


def test_weights_are_those_of_the_pooling(root: Path, tmp_path: Path) -> None:
    with client_of(server_of(root, tmp_path / "notes")) as client:
        answers = client.post("/api/ask", json={"line": QUESTION[1], "seen": True}).json()["answers"]
        answer = answers[0]
        study = client.get(f"/api/study/{answer['split']}/{answer['study_id']}").json()
    expected = pooled(root, answer["split"], answer["study_id"])
    told = {s["key"]: {v["view"]: v["weight"] for v in s["views"]} for s in study["sites"] if s["views"]}
    assert told.keys() == expected.keys() and len(told) > 20
    for key, weights in told.items():
        assert weights == pytest.approx(expected[key], abs=1e-4)
        assert sum(weights.values()) == pytest.approx(1, abs=1e-5)
    assert len({round(max(weights.values()), 3) for weights in told.values()}) > 5, "they differ"
    command = [sys.executable, "query_vl.py", "--root", str(root), "--run", "first", *QUESTION, "--json"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    by_command = json.loads(done.stdout)["answers"]
    assert by_command == answers
    views = by_command[0]["sites"][0]["views"]
    assert {v["view"]: v["weight"] for v in views} == told["left_neural_foraminal_narrowing_l4_l5"]


def drawn(page: Page) -> list[str]:
    """Return the words that were drawn since the last call, at boxes alone (their colour tells them)."""
    words: list[str] = page.evaluate("globalThis.drawnWords?.splice(0) ?? []")
    return words


RECORD = """() => {
    globalThis.drawnWords = [];
    const draw = CanvasRenderingContext2D.prototype.fillText;
    CanvasRenderingContext2D.prototype.fillText = function (text, ...place) {
        if (this.fillStyle === "#ffd23f") drawnWords.push(`${this.canvas.parentElement.dataset.view} ${text}`);
        return draw.call(this, text, ...place);
    };
}"""


@pytest.mark.parametrize("weights", [(0.62, 0.38), (None, None)])
def test_weights_are_drawn_at_their_boxes(page: Page, weights: tuple[float | None, float | None]) -> None:
    studies: list[dict[str, Any]] = []

    def weigh(route: Any) -> None:
        study = route.fetch().json()
        for site in study["sites"]:
            for view, weight in zip(site["views"], weights, strict=False):
                view["weight"] = weight
        studies.append(study)
        route.fulfill(json=study)

    page.route("**/api/study/**", weigh)
    ask(page)
    page.evaluate(RECORD)
    page.click("#list li:first-child .head button")
    until(page, OPENED)
    [site] = [one for one in studies[0]["sites"] if one["key"] == "left_neural_foraminal_narrowing_l4_l5"]
    assert len(site["views"]) == 2
    expected = {f"{v['view']} {v['weight']:.2f}" for v in site["views"] if v["weight"] is not None}
    page.wait_for_timeout(300)
    assert set(drawn(page)) == expected
    said = page.inner_text("#site")
    assert ("0.62" in said and "0.38" in said) is bool(expected)
    texts = page.evaluate("[...document.querySelectorAll('.pane canvas')].map((one) => one.ariaValueText)")
    assert sum("shows the site" in text for text in texts) == 2
    assert sum("with weight" in text for text in texts) == len(expected)
    page.focus(".pane canvas")
    page.keyboard.press("Home")
    drawn(page)
    page.keyboard.press("r")
    assert not any("sagittal_t1" in one for one in drawn(page)), "no box on another slice"
