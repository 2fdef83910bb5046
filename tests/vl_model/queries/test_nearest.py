"""Similar cases and free words: the answers against a slow ranking, and damaged vectors."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from data_prep.sites import SITES, Condition, Level, Side, Site
from prompts import render
from tests.immutable import immutable
from tests.vl_model.queries.segments import FINGERPRINT, Parts, make_parts
from vl_model.queries import likeness, nearest
from vl_model.queries.index import IndexRefused, Segment, load_segment, save_segment
from vl_model.queries.likeness import best_sites, highest_cosines, needed_cosine, neutral_texts, null_of
from vl_model.queries.similar import similar_sites

Answer = tuple[str, int, str, float]


def slow_ranking(
    named: Sequence[tuple[str, Parts]], sites: Sequence[Site], vector_D: np.ndarray, left_out: tuple[str, int] | None
) -> list[Answer]:
    """Rank by loops over the rows that segments are made from."""
    best: dict[tuple[int, int], tuple[float, int, int, int]] = {}
    for place, (name, parts) in enumerate(named):
        for (study, site), image_D in zip(parts.keys, parts.image_ND, strict=True):
            if site not in sites or (name, study) == left_out:
                continue
            cosine = round(sum(float(a) * float(b) for a, b in zip(image_D, vector_D, strict=True)), 9)
            rank = (-cosine, study, SITES.index(site), place)
            best[place, study] = min(rank, best.get((place, study), rank))
    return [(named[place][0], study, SITES[x].key, -minus) for minus, study, x, place in sorted(best.values())]


def plain(found: Sequence[nearest.Similar]) -> list[Answer]:
    return [(one.segment, one.study_id, one.site.key, one.cosine) for one in found]


def check(found: Sequence[nearest.Similar], expected: Sequence[Answer]) -> None:
    assert [answer[:3] for answer in plain(found)] == [answer[:3] for answer in expected]
    assert [answer[3] for answer in plain(found)] == pytest.approx([answer[3] for answer in expected], abs=2e-9)


def with_twins(parts: Parts) -> Parts:
    """Give many rows the embedding of another one, so that there are ties."""
    image_ND = parts.image_ND.copy()
    image_ND[1::3] = image_ND[0]
    return replace(parts, image_ND=image_ND)


CHOICES: dict[str, Callable[[Site], bool]] = {
    "all": lambda site: bool(site.key),
    "a site": lambda site: site.key == "right_subarticular_stenosis_l3_l4",
    "a condition": lambda site: site.condition is Condition.NEURAL_FORAMINAL_NARROWING,
    "a level": lambda site: site.level is Level.L4_L5,
    "a side": lambda site: site.side is Side.RIGHT,
}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("seed", range(3))
def test_best_sites_against_the_slow_ranking(choice: str, seed: int) -> None:
    named = [("train", with_twins(make_parts(seed))), ("ward", make_parts(seed + 50, studies=5))]
    segments = [parts.segment(name) for name, parts in named]
    sites = [site for site in SITES if CHOICES[choice](site)]
    vectors = [named[0][1].image_ND[0], named[0][1].image_ND[4], -named[1][1].image_ND[1]]
    for text_D in vectors:
        expected = slow_ranking(named, sites, text_D, None)
        for top in (1, 3, 10, 999):
            check(best_sites(segments, text_D, None if choice == "all" else sites, top), expected[:top])


@pytest.mark.parametrize("top", [1, 3, 10, 999])
def test_best_sites_of_unseen_studies(top: int) -> None:
    named = [("train", with_twins(make_parts(1))), ("ward", make_parts(51, studies=5))]
    segments = [parts.segment(name) for name, parts in named]
    for text_D in (named[0][1].image_ND[0], -named[1][1].image_ND[1]):
        seen = {(name, study) for name, parts in named for study in parts.seen}
        ranking = [answer for answer in slow_ranking(named, SITES, text_D, None) if answer[:2] not in seen]
        check(best_sites(segments, text_D, None, top, seen=False), ranking[:top])


@pytest.mark.parametrize("any_level", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_similar_sites_against_the_slow_ranking(any_level: bool, seed: int) -> None:
    """In both segments there are studies of the same ids."""
    named = [("train", with_twins(make_parts(seed))), ("ward", make_parts(seed + 50))]
    segments = [parts.segment(name) for name, parts in named]
    own = dict(zip(named[0][1].keys, named[0][1].image_ND, strict=True))
    for study, site in list(own)[::7]:
        sites = [other for other in SITES if other.condition is site.condition]
        sites = [other for other in sites if any_level or other.level is site.level]
        expected = slow_ranking(named, sites, own[study, site], ("train", study))
        for top in (1, 10, 999):
            check(similar_sites(segments, study, site, top, any_level), expected[:top])
        assert ("train", study) not in {answer[:2] for answer in expected}


def test_no_order_of_rows_changes_an_answer() -> None:
    parts = with_twins(make_parts(4, studies=40, dimensions=64))
    order = np.random.default_rng(0).permutation(len(parts.keys))
    shuffled = replace(
        parts,
        study_ids=sorted(parts.study_ids),
        keys=[parts.keys[row] for row in order],
        image_ND=parts.image_ND[order],
        prob_N3=parts.prob_N3[order],
        weight_NV=None if parts.weight_NV is None else parts.weight_NV[order],
        pairs=parts.pairs[::-1],
    )
    study, site = parts.keys[0]
    for any_level in (False, True):
        first, second = (similar_sites([p.segment()], study, site, 99, any_level) for p in (parts, shuffled))
        assert first == second
    first, second = (best_sites([p.segment()], parts.image_ND[0], None, 99) for p in (parts, shuffled))
    assert first == second


def test_sites_that_are_all_alike_are_ranked_by_study(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a model that has collapsed: every site of every study is compared exactly, in several blocks."""
    monkeypatch.setattr(nearest, "BLOCK", 7)
    parts = make_parts()
    parts = replace(parts, image_ND=np.tile(parts.image_ND[:1], (len(parts.keys), 1)))
    found = best_sites([parts.segment()], parts.image_ND[0], None, 4)
    assert [one.study_id for one in found] == sorted(parts.study_ids)[:4]
    assert [one.cosine for one in found] == pytest.approx([1.0] * 4, abs=1e-6)


def test_a_site_is_taken_from_the_first_segment_that_shows_it() -> None:
    first, second = make_parts(0), make_parts(1)
    only_second = [key for key in second.keys if key not in first.keys and key[0] in first.study_ids]
    study, site = only_second[0]
    segments = [first.segment("train"), second.segment("ward")]
    own = dict(zip(second.keys, second.image_ND, strict=True))[study, site]
    sites = [other for other in SITES if other.condition is site.condition and other.level is site.level]
    expected = slow_ranking([("train", first), ("ward", second)], sites, own, ("ward", study))
    check(similar_sites(segments, study, site, 99), expected)


def test_what_cannot_be_compared_is_said() -> None:
    parts = make_parts(first=1_000_011)
    segment = parts.segment()
    with pytest.raises(
        ValueError, match=r"study 1000012: not among the 12 studies of 'train'; did you mean 10000\d\d\?"
    ):
        similar_sites([segment], 1_000_012, SITES[0], 5)
    with pytest.raises(ValueError, match=r"study 3: not among the 12 studies of 'train'$"):
        similar_sites([segment], 3, SITES[0], 5)
    without_image = max(parts.study_ids)
    with pytest.raises(ValueError, match=f"study {without_image}: no image shows its L1-L2 spinal canal stenosis"):
        similar_sites([segment], without_image, SITES[0], 5)
    with pytest.raises(ValueError, match="has embeddings of 8 dimensions, not 3"):
        best_sites([segment], np.ones(3, np.float32), None, 5)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3.0])
def test_a_damaged_vector_is_refused_when_it_is_used(tmp_path: Path, value: float) -> None:
    parts = make_parts()
    save_segment(parts.segment(), tmp_path / "index")
    path = tmp_path / "index" / "vectors.npy"
    vector_XSD = np.load(path)
    study, site = parts.keys[0]
    vector_XSD[SITES.index(site), sorted(parts.study_ids).index(study)] = value
    np.save(path, vector_XSD)
    segment = load_segment(tmp_path / "index", FINGERPRINT)
    text_D = np.full(8, 8**-0.5, np.float32)
    for call in (
        lambda: best_sites([segment], text_D, None, 5),
        lambda: highest_cosines([segment], text_D[None]),
        lambda: similar_sites([segment], study, site, 5),
    ):
        with pytest.raises(IndexRefused, match=r"'train': vectors\.npy has vectors that are not normalised"):
            call()
    elsewhere = next(other for other in SITES if other.condition is not site.condition)
    assert best_sites([segment], text_D, [elsewhere], 5)


def test_a_shortened_vector_among_the_answers_is_refused() -> None:
    parts = make_parts()
    half = replace(parts, image_ND=parts.image_ND * np.float32(0.5))
    with pytest.raises(IndexRefused, match="not normalised"):
        best_sites([half.segment()], parts.image_ND[0], None, 5)


def test_a_vector_of_a_site_that_is_not_imaged_is_no_answer() -> None:
    parts = make_parts()
    segment = parts.segment()
    row, site = np.argwhere(~segment.imaged_SX)[0]
    segment.vector_XSD[site, row] = parts.image_ND[0]
    with pytest.raises(IndexRefused, match="of different sites"):
        best_sites([segment], parts.image_ND[0], None, 5)


def test_a_cosine_of_zero_is_an_answer() -> None:
    parts = make_parts(studies=4, dimensions=2)
    image_ND = np.tile(np.array([1, 0], np.float32), (len(parts.keys), 1))
    found = best_sites([replace(parts, image_ND=image_ND).segment()], np.array([0, 1], np.float32), None, 9)
    assert [(one.study_id, one.cosine) for one in found] == [(study, 0) for study in sorted(parts.study_ids)[:-1]]


@pytest.mark.parametrize("block", [3, 2048])
def test_highest_cosines_against_a_loop(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likeness, "BLOCK", block)
    named = [("train", make_parts(0)), ("ward", make_parts(1, studies=7))]
    text_ND = np.random.default_rng(0).normal(size=(9, 8)).astype(np.float32)
    text_ND /= np.linalg.norm(text_ND, axis=1, keepdims=True)
    expected = [max(float((parts.image_ND @ text).max()) for _, parts in named) for text in text_ND]
    found = highest_cosines([parts.segment(name) for name, parts in named], text_ND)
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_site_that_no_image_shows_has_no_cosine() -> None:
    """Its vector is zero, and its cosine would be higher than those of all sites that point away from the text."""
    parts = make_parts(studies=3)
    parts = replace(parts, image_ND=np.tile(parts.image_ND[:1], (len(parts.keys), 1)))
    text_D = -parts.image_ND[0]
    assert highest_cosines([parts.segment()], text_D[None]) == pytest.approx([-1], abs=1e-6)
    assert [one.cosine for one in best_sites([parts.segment()], text_D, None, 9)] == pytest.approx([-1, -1], abs=1e-6)


def embed_by_hash(texts: Sequence[str]) -> np.ndarray:
    text_ND = np.array([np.random.default_rng(list(text.encode())).normal(size=8) for text in texts], np.float32)
    return text_ND / np.linalg.norm(text_ND, axis=1, keepdims=True)


@pytest.fixture
def segment() -> Segment:
    return make_parts().segment()


def test_the_null_is_kept_and_computed_once(segment: Segment, tmp_path: Path) -> None:
    calls: list[int] = []

    def embed(texts: Sequence[str]) -> np.ndarray:
        calls.append(len(texts))
        return embed_by_hash(texts)

    null_N = null_of(segment, tmp_path, embed)
    assert np.array_equal(null_N, highest_cosines([segment], embed_by_hash(neutral_texts())))
    assert np.array_equal(null_of(segment, tmp_path, embed), null_N) and calls == [200]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["likeness.json", "likeness.npy"]
    null_of(replace(segment, fingerprint={**FINGERPRINT, "model": "other"}), tmp_path, embed)
    assert calls == [200, 200]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "likeness.npy").unlink(),
        lambda folder: (folder / "likeness.npy").write_bytes(b""),
        lambda folder: np.save(folder / "likeness.npy", np.full(200, np.nan, np.float32)),
        lambda folder: np.save(folder / "likeness.npy", np.zeros(199, np.float32)),
        lambda folder: np.save(folder / "likeness.npy", np.zeros(200)),
        lambda folder: (folder / "likeness.json").write_text("{"),
        lambda folder: (folder / "likeness.json").write_text(json.dumps({"schema_version": 1, "texts": "other"})),
    ],
)
def test_a_damaged_null_is_computed_again(segment: Segment, tmp_path: Path, damage: Callable[[Path], object]) -> None:
    null_N = null_of(segment, tmp_path, embed_by_hash)
    damage(tmp_path)
    assert np.array_equal(null_of(segment, tmp_path, embed_by_hash), null_N)
    null_of(segment, tmp_path, lambda texts: pytest.fail(f"the null was not kept: {texts}"))


def test_a_null_that_cannot_be_kept_is_used(segment: Segment, tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    with immutable(tmp_path / "index"):
        null_N = null_of(segment, tmp_path / "index", embed_by_hash)
    assert len(null_N) == 200 and not list((tmp_path / "index").iterdir())


def test_a_text_must_exceed_all_neutral_texts_over_all_segments() -> None:
    first, second = np.linspace(0, 0.5, 200, dtype=np.float32), np.full(200, 0.1, np.float32)
    assert needed_cosine([first]) == needed_cosine([first, second]) == 0.5
    assert needed_cosine([second]) == pytest.approx(0.1)


def phrases_of(entry: object) -> list[str]:
    if isinstance(entry, dict):
        return [phrase for part in entry.values() for phrase in phrases_of(part)]
    return [phrase for part in entry for phrase in phrases_of(part)] if isinstance(entry, list) else [str(entry)]


def test_the_neutral_texts_are_200_and_name_nothing_that_is_graded() -> None:
    texts = neutral_texts()
    assert len(texts) == len(set(texts)) == 200
    vocabulary = yaml.safe_load((Path(render.__file__).parent / "queries.yaml").read_text(encoding="utf-8"))
    graded = {
        phrase for part in ("conditions", "findings", "severities", "sides") for phrase in phrases_of(vocabulary[part])
    }
    body = {"disc", "spine", "bone", "nerve", "back", "scan", "image", "doctor", "patient", "body", "root", "slice"}
    words = " ".join(f" {text.lower()} " for text in texts)
    assert not [phrase for phrase in graded | body if f" {phrase} " in words]
