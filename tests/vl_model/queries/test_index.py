"""The index: its ranking against a slow one, refusal of other runs' indexes, and answers as text and images."""

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.conversion.pairs import Pair
from data_prep.sites import SITES, Condition, Severity, Site, Source, View
from prompts.parse import Query, parse_query
from prompts.render import caption
from vl_model.queries.answer_sheet import cut_box, read_slice, save_crops, save_sheet
from vl_model.queries.answers import answer_json, answer_table, explain, query_json
from vl_model.queries.index import BAND, Answer, Index, IndexRefused, build_index, join, load_index, rank, save_index

STUDIES = [11, 22, 33, 44, 55, 66]
FINGERPRINT = {"data": "d", "model": "m", "heads": "h"}


def pair_of(study_id: int, site: Site, view: View, crop: int) -> Pair:
    series_id = study_id * 10 + list(View).index(view)
    return Pair(
        study_id=study_id,
        site=site,
        view=view,
        series_id=series_id,
        instance_number=crop % 9 + 1,
        instance_numbers=(1, 2, 3),
        image=f"images/{study_id}/{series_id}/{crop % 9 + 1}.png",
        box=(10.0, 20.0, 30.5, 40.5),
        text=caption(site, None),
        severity=None,
        source=Source.ANNOTATED,
        fold=0,
        crop=crop,
    )


def make_index(seed: int = 0, split: str = "train", studies: list[int] | None = None) -> Index:
    """Return an index with missing sites and with ties; in the pairs, the second view comes first."""
    random = np.random.default_rng(seed)
    keys = [(study, site) for study in studies or STUDIES for site in SITES if random.random() < 0.8]
    pairs = [pair_of(study, site, view, 7 * n) for n, (study, site) in enumerate(keys) for view in site.views[::-1]]
    probability = random.dirichlet([2, 1, 1], size=len(keys)).round(1)
    image = random.normal(size=(len(keys), 8)).astype(np.float32)
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    return build_index(split, keys, image, probability, pairs, training_studies=[11, 22], fingerprint=FINGERPRINT)


def slow_ranking(index: Index, query: Query, text_D: np.ndarray | None) -> list[tuple[int, str]]:
    """Return (study, site key) of every matching study, best first, by loops over the definition."""
    asked = query.severities or ({Severity.MODERATE, Severity.SEVERE} if query.conditions or not query.rest else set())
    score = {}
    likeness = {}
    for row in range(len(index)):
        key = (int(index.study_N[row]), SITES[index.site_N[row]])
        score[key] = sum(float(index.probability_N3[row, int(severity)]) for severity in sorted(asked))
        likeness[key] = 0.0 if text_D is None else float(index.image_ND[row] @ text_D)
    sites = defaultdict(list)
    for (study, site), value in score.items():
        if query.conditions and site.condition not in query.conditions:
            continue
        if query.levels and site.level not in query.levels:
            continue
        if query.sides and site.side not in query.sides and site.side is not None:
            continue
        if query.sides and site.side is None and Condition.SPINAL_CANAL_STENOSIS not in query.conditions:
            continue
        if query.both_sides and site.side is not None:
            if (study, site.mirrored) not in score:
                continue
            if value > score[study, site.mirrored]:
                continue  # the other side, which is weaker, answers for both
        value = value if text_D is None else np.floor(value / BAND)
        sites[study].append((-value, -likeness[study, site], study, SITES.index(site), site.key))
    return [(best[2], best[4]) for best in sorted(min(answers) for answers in sites.values())]


@pytest.mark.parametrize(
    "text",
    [
        "severe left foraminal narrowing at L4-L5",
        "at least moderate canal stenosis",
        "bilateral moderate or severe foraminal stenosis",
        "bilateral severe stenosis",
        "no lateral recess stenosis at L1-L2",
        "not severe",
        "stenosis",
        "severe canal or left foraminal stenosis, L3 to S1",
        "severe canal stenosis with disc herniation",
        "disc herniation at L4-L5",
        "scoliosis",
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_ranking_against_the_slow_one(text: str, seed: int) -> None:
    index, query = make_index(seed), parse_query(text)
    text_D = index.image_ND[3] if query.rest else None
    answers = rank(index, query, text_D, top=100)
    assert [(a.study_id, a.site.key) for a in answers] == slow_ranking(index, query, text_D)
    assert [a.rank for a in answers] == list(range(1, len(answers) + 1))
    assert rank(index, query, text_D, top=2) == answers[:2]


def test_an_answer_has_the_values_of_its_row() -> None:
    index = make_index()
    for answer in rank(index, parse_query("severe foraminal narrowing"), None, top=9):
        place = list(SITES).index(answer.site)
        [row] = np.flatnonzero((index.study_N == answer.study_id) & (index.site_N == place))
        assert answer.probabilities == tuple(index.probability_N3[row])
        assert answer.score == answer.probabilities[Severity.SEVERE]
        assert answer.view is View.SAGITTAL_T1, "the view that the site is marked in, not the first pair"
        assert answer.series_id == answer.study_id * 10 + list(View).index(View.SAGITTAL_T1)
        assert answer.image == f"images/{answer.study_id}/{answer.series_id}/{answer.instance_number}.png"
        assert answer.in_training == (answer.study_id in (11, 22))
        assert answer.likeness is None


def test_likeness_alone_has_no_score() -> None:
    index = make_index()
    best, *_ = rank(index, parse_query("scoliosis"), index.image_ND[5], top=1)
    assert best.score is None
    assert best.likeness == pytest.approx(1.0)
    assert (best.study_id, best.site) == (int(index.study_N[5]), SITES[index.site_N[5]])


def test_an_embedding_is_required_only_for_unknown_words() -> None:
    index = make_index()
    with pytest.raises(ValueError, match="scoliosis"):
        rank(index, parse_query("scoliosis"), None, top=1)
    with pytest.raises(ValueError):
        rank(index, parse_query("severe canal stenosis"), index.image_ND[0], top=1)


def test_joined_splits_keep_equal_study_ids_apart() -> None:
    train, test = make_index(0), make_index(1, "test")
    both = join([train, test])
    assert len(both) == len(train) + len(test)
    answers = rank(both, parse_query("severe stenosis"), None, top=99)
    assert sorted((a.split, a.study_id) for a in answers) == sorted((s, i) for s in ("train", "test") for i in STUDIES)


def test_an_index_is_written_and_read(tmp_path: Path) -> None:
    index = make_index()
    save_index(make_index(1), tmp_path / "index")
    save_index(index, tmp_path / "index")
    again = load_index(tmp_path / "index", FINGERPRINT)
    query = parse_query("at least moderate stenosis with oedema")
    assert rank(again, query, index.image_ND[0], 9) == rank(index, query, index.image_ND[0], 9)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize("changed", FINGERPRINT)
def test_an_index_with_another_fingerprint_is_refused(tmp_path: Path, changed: str) -> None:
    save_index(make_index(), tmp_path / "index")
    with pytest.raises(ValueError, match=f"was made from other {changed}"):
        load_index(tmp_path / "index", {**FINGERPRINT, changed: "new"})


def test_a_missing_broken_or_old_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no query index"):
        load_index(tmp_path / "index", FINGERPRINT)
    save_index(make_index(), tmp_path / "index")
    manifest = json.loads((tmp_path / "index" / "index.json").read_text())
    (tmp_path / "index" / "index.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    with pytest.raises(ValueError, match="schema version 99"):
        load_index(tmp_path / "index", FINGERPRINT)
    (tmp_path / "index" / "index.json").write_text(json.dumps({**manifest, "sites": 1}))
    with pytest.raises(ValueError, match=r"index\.json states 1"):
        load_index(tmp_path / "index", FINGERPRINT)


@pytest.mark.parametrize("name", ["columns.npz", "image.npy"])
@pytest.mark.parametrize("content", [None, b"", b"PK junk"])
def test_an_index_with_a_broken_part_is_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    save_index(make_index(), tmp_path / "index")
    (tmp_path / "index" / name).unlink()
    if content is not None:
        (tmp_path / "index" / name).write_bytes(content)
    with pytest.raises(IndexRefused, match="cannot be read"):
        load_index(tmp_path / "index", FINGERPRINT)


def test_a_site_without_evidence_is_refused() -> None:
    with pytest.raises(ValueError, match="no pair in dataset"):
        build_index("train", [(1, SITES[0])], np.ones((1, 4), np.float32), np.ones((1, 3)) / 3, [], [], {})


@pytest.fixture
def answers() -> list[Answer]:
    return rank(make_index(), parse_query("severe left foraminal narrowing"), None, top=3)


def test_table_and_json_agree(answers: list[Answer]) -> None:
    truth = {(answers[0].study_id, answers[0].site): Severity.MODERATE}
    head, *lines = answer_table(answers, truth).splitlines()
    assert len(lines) == 3
    assert "truth" in head
    for answer, line in zip(answers, lines, strict=True):
        content = json.loads(json.dumps(answer_json(answer, truth)))
        assert f"{content['probabilities']['severe']:.3f}" in line
        assert f"{content['series_id']}/{content['instance_number']}" in line
        assert ("moderate" in line) == (content["truth"] == "moderate")
    assert "truth" not in answer_json(answers[0])


def test_the_parsed_query_is_printed() -> None:
    query = parse_query("severe left canal stenosis with oedema")
    said = "\n".join(explain(query))
    for part in ("severe, spinal canal stenosis", "with oedema", "P(severe)", "canal has no side"):
        assert part in said
    content = json.loads(json.dumps(query_json(query)))
    assert (content["severities"], content["sides"], content["rest"]) == (["severe"], [], "with oedema")


def slow_cut(picture: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    x0, y0, x1, y1 = box
    rows = [y for y in range(picture.shape[0]) if y0 <= y <= y1]
    columns = [x for x in range(picture.shape[1]) if x0 <= x <= x1]
    return picture[np.ix_(rows, columns)]


def test_the_box_is_cut_at_its_pixels() -> None:
    picture = np.arange(60 * 50, dtype=np.uint32).reshape(60, 50)
    for box in [(10.0, 20.0, 30.5, 40.5), (10.2, 20.7, 11.0, 40.0), (-5.0, -5.0, 4.0, 4.0), (40.0, 50.0, 99.0, 99.0)]:
        assert np.array_equal(cut_box(picture, box), slow_cut(picture, box))  # type: ignore[arg-type]
    assert cut_box(picture, (200.0, 200.0, 210.0, 210.0)).size == 1  # type: ignore[arg-type]


@pytest.fixture
def processed(tmp_path: Path, answers: list[Answer]) -> Callable[[Answer], np.ndarray]:
    random = np.random.default_rng(0)
    for answer in answers:
        path = tmp_path / answer.image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (90, 70), dtype=np.uint8)).save(path)
    return lambda answer: read_slice(tmp_path, answer)


def test_crops_and_sheet_are_written(processed: Callable, answers: list[Answer], tmp_path: Path) -> None:
    pictures = [processed(answer) for answer in answers]
    saved = save_crops(answers, pictures, tmp_path / "out")
    save_sheet(tmp_path / "out" / "answers.png", "severe $left^ {x}", "a subtitle", answers, pictures, {})
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted([path.name for paths in saved for path in paths] + ["answers.png"])
    with Image.open(saved[0][0]) as shown:
        drawn = np.asarray(shown)
        assert drawn.shape == (90, 70, 3)
        assert tuple(drawn[20, 15]) == tuple(drawn[30, 10]) == (255, 210, 63), "the box's edges"
        assert tuple(drawn[30, 20]) == (pictures[0][30, 20],) * 3, "the image inside it"


def test_an_image_outside_the_folder_is_refused(processed: Callable, answers: list[Answer]) -> None:
    with pytest.raises(ValueError, match="outside"):
        processed(replace(answers[0], image="../../secret.png"))
    with pytest.raises(ValueError, match=r"run prepare_data\.py again"):
        processed(replace(answers[0], image="images/1/2/3.png"))
