"""The index: its arrays against a slow construction, and the refusal of other, damaged and tampered ones."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.sites import SITES, Site
from tests.vl_model.queries.segments import FINGERPRINT, Parts, make_parts
from vl_model.queries import index_checks
from vl_model.queries.index import IndexRefused, Segment, build_segment, image_path, load_segment, save_segment

ARRAYS = (
    "studies.npy",
    "graded.npy",
    "sets.npy",
    "answers.npy",
    "typicality.npy",
    "vectors.npy",
    "labels.npy",
    "evidence.npy",
)


@pytest.mark.parametrize("seed", range(3))
def test_every_array_has_the_values_of_its_pairs_and_rows(seed: int) -> None:
    parts = make_parts(seed)
    segment = parts.segment()
    assert segment.study_S.tolist() == sorted(parts.study_ids) and len(segment) == len(parts.study_ids)
    row_of = {key: row for row, key in enumerate(parts.keys)}
    for place, study in enumerate(segment.study_S.tolist()):
        assert segment.row_of(study) == place and segment.row_of(study + 1) is None
        assert segment.seen_S[place] == (study in parts.seen)
        for index, site in enumerate(SITES):
            row = row_of.get((study, site))
            assert segment.imaged_SX[place, index] == (row is not None)
            if row is None:
                assert np.isnan(segment.graded_SX3[place, index]).all() and not segment.vector_XSD[index, place].any()
            else:
                assert segment.graded_SX3[place, index].tolist() == parts.prob_N3[row].astype(np.float32).tolist()
                assert segment.vector_XSD[index, place].tolist() == parts.image_ND[row].tolist()
            check_pairs_of(segment, parts, place, index, site)


def check_pairs_of(segment: Segment, parts: Parts, place: int, index: int, site: Site) -> None:
    study = int(segment.study_S[place])
    own = sorted(
        (pair for pair in parts.pairs if (pair.study_id, pair.site) == (study, site)),
        key=lambda pair: site.views.index(pair.view),
    )
    found = segment.evidence(place, index)
    assert [(e.view, e.series_id, e.instance_number, e.source) for e in found] == [
        (pair.view, pair.series_id, pair.instance_number, pair.source) for pair in own
    ]
    assert [image_path(study, e) for e in found] == [pair.image for pair in own]
    for evidence, pair in zip(found, own, strict=True):
        assert evidence.box == pytest.approx(pair.box, rel=1e-6)
    weights = [evidence.weight for evidence in found]
    assert weights == pytest.approx([[], [1.0], [0.7, 0.3]][len(own)])
    labels = {-1 if pair.severity is None else int(pair.severity) for pair in own} or {-1}
    assert {int(segment.label_SX[place, index])} == labels


def test_a_segment_is_written_and_read(tmp_path: Path) -> None:
    segment = make_parts().segment("follow-up")
    save_segment(make_parts(1).segment(), tmp_path / "index")
    save_segment(segment, tmp_path / "index")
    again = load_segment(tmp_path / "index", FINGERPRINT)
    for field in fields(Segment):
        ours, theirs = getattr(segment, field.name), getattr(again, field.name)
        has_nan = field.name in ("graded_SX3", "answers_SQ", "typicality_S")
        same = np.array_equal(ours, theirs, equal_nan=True) if has_nan else None
        assert np.array_equal(ours, theirs) if same is None else same, field.name
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert all(isinstance(getattr(again, name), np.memmap) for name in ("graded_SX3", "vector_XSD", "evidence_SX2"))


@pytest.mark.parametrize("studies", [1, 2, 5, 23])
def test_segments_of_any_size_are_read(tmp_path: Path, studies: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_checks, "BLOCK", 5)
    save_segment(make_parts(studies=studies, dimensions=2).segment(), tmp_path / "index")
    assert len(load_segment(tmp_path / "index", FINGERPRINT)) == studies


@pytest.mark.parametrize("changed", FINGERPRINT)
def test_an_index_with_another_fingerprint_is_refused(tmp_path: Path, changed: str) -> None:
    save_segment(make_parts().segment(), tmp_path / "index")
    with pytest.raises(IndexRefused, match=f"was made from other {changed}"):
        load_segment(tmp_path / "index", {**FINGERPRINT, changed: "new"})
    with pytest.raises(IndexRefused, match="was made from other"):
        load_segment(tmp_path / "index", {})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schema_version": 3}, "schema version 3, expected 6"),
        ({"studies": 3}, r"not an array of the shape \(3,\)"),
        ({"studies": "many"}, "cannot be read"),
        ({"studies": None}, "cannot be read"),
        ({"dimensions": 9}, "vectors.npy is not"),
        ({"dimensions": -1}, "vectors.npy is not"),
        ({"fingerprint": [1]}, "no fingerprint"),
    ],
)
def test_an_edited_index_json_is_refused(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    save_segment(make_parts().segment(), tmp_path / "index")
    path = tmp_path / "index" / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(IndexRefused, match=complaint):
        load_segment(tmp_path / "index", FINGERPRINT)


def test_a_missing_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IndexRefused, match="no such file"):
        load_segment(tmp_path / "index", FINGERPRINT)


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"PK junk"),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:60]),
        lambda path: path.write_bytes(path.read_bytes().replace(b"'fortran_order': False", b"'fortran_order': True ")),
        lambda path: path.write_bytes(path.read_bytes().replace(b"shape", b"sh\xffpe")),
        lambda path: path.write_bytes(path.read_bytes().replace(b"shape': (", b"shape': -")),
        lambda path: np.save(path, np.zeros(3)),
        lambda path: np.save(path, np.load(path)[:-1]),
        lambda path: np.save(path, np.array([{}]), allow_pickle=True),
        lambda path: (path.unlink(), path.mkdir()),
    ],
)
def test_a_damaged_array_is_refused(tmp_path: Path, name: str, damage: Callable[[Path], object]) -> None:
    save_segment(make_parts().segment(), tmp_path / "index")
    damage(tmp_path / "index" / name)
    with pytest.raises(IndexRefused) as refused:
        load_segment(tmp_path / "index", FINGERPRINT)
    assert "\n" not in str(refused.value) and str(tmp_path) in str(refused.value)


def change_record(field: str, value: object) -> Callable[[np.ndarray], None]:
    def change(evidence_SX2: np.ndarray) -> None:
        study, site, view = np.argwhere(evidence_SX2["view"] != 255)[5]
        evidence_SX2[field][study, site, view] = value

    return change


def change_site(value: object) -> Callable[[np.ndarray], None]:
    def change(graded_SX3: np.ndarray) -> None:
        study, site, _ = np.argwhere(np.isfinite(graded_SX3))[5]
        graded_SX3[study, site] = value

    return change


def change_two_views(weights: tuple[float, float]) -> Callable[[np.ndarray], None]:
    def change(evidence_SX2: np.ndarray) -> None:
        study, site = np.argwhere((evidence_SX2["view"] != 255).all(axis=2))[5]
        evidence_SX2["weight"][study, site] = weights

    return change


def drop_evidence(evidence_SX2: np.ndarray) -> None:
    study, site, _ = np.argwhere(evidence_SX2["view"] != 255)[5]
    evidence_SX2["view"][study, site] = 255


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("studies.npy", lambda a: a["study_id"].__setitem__(0, -4), "negative"),
        ("studies.npy", lambda a: a["study_id"].__setitem__(1, a["study_id"][0]), "not ascending"),
        ("graded.npy", change_site([np.nan, 0.5, 0.5]), "only some"),
        ("graded.npy", change_site([np.nan, np.nan, 0.5]), "only some"),
        ("graded.npy", change_site([np.inf, -np.inf, 1]), "only some|negative"),
        ("graded.npy", change_site([np.inf, 0, 0]), "sum is not 1"),
        ("graded.npy", change_site([1.2, -0.2, 0]), "negative"),
        ("graded.npy", change_site([0.9, 0.2, 0]), "sum is not 1"),
        ("graded.npy", change_site(np.nan), "different sites"),
        ("sets.npy", lambda a: a.__setitem__((0, 0), 0), "sets outside 1 to 7"),
        ("sets.npy", lambda a: a.__setitem__((0, 0), 8), "sets outside 1 to 7"),
        ("sets.npy", lambda a: a.__setitem__(-1, 1), "a site that no image shows"),
        ("answers.npy", lambda a: a.__setitem__((0, 0), 1.5), "outside 0 to 1"),
        ("answers.npy", lambda a: a.__setitem__((0, 1), -0.1), "outside 0 to 1"),
        ("typicality.npy", lambda a: a.__setitem__(0, 1.1), "typicality.npy has values outside 0 to 1"),
        ("labels.npy", lambda a: a.__setitem__((0, 0), 3), "grades outside"),
        ("labels.npy", lambda a: a.__setitem__((0, 0), -2), "grades outside"),
        ("evidence.npy", change_record("view", 99), "a view that does not show"),
        ("evidence.npy", drop_evidence, "different sites"),
        ("evidence.npy", change_record("series_id", -1), "cannot exist"),
        ("evidence.npy", change_record("instance_number", -1), "cannot exist"),
        ("evidence.npy", change_record("source", 3), "cannot exist"),
        ("evidence.npy", change_record("source", 255), "cannot exist"),
        ("evidence.npy", change_record("box", np.nan), "not finite"),
        ("evidence.npy", change_record("weight", 0.9), "sum is not 1"),
        ("evidence.npy", change_record("weight", np.inf), "sum is not 1"),
        ("evidence.npy", change_two_views((np.nan, 0.3)), "sum is not 1"),
        ("evidence.npy", change_two_views((-0.2, 1.2)), "negative"),
    ],
)
def test_a_value_that_cannot_be_right_is_refused(
    tmp_path: Path, name: str, change: Callable[[np.ndarray], None], complaint: str
) -> None:
    save_segment(make_parts().segment(), tmp_path / "index")
    array = np.load(tmp_path / "index" / name)
    change(array)
    np.save(tmp_path / "index" / name, array)
    with pytest.raises(IndexRefused, match=complaint):
        load_segment(tmp_path / "index", FINGERPRINT)


def test_weights_that_are_not_known_are_none(tmp_path: Path) -> None:
    save_segment(replace(make_parts(), weight_NV=None).segment(), tmp_path / "index")
    segment = load_segment(tmp_path / "index", FINGERPRINT)
    shown = [e for row in range(len(segment)) for index in range(len(SITES)) for e in segment.evidence(row, index)]
    assert len(shown) > 100 and all(evidence.weight is None for evidence in shown)


def test_a_view_of_another_condition_is_refused(tmp_path: Path) -> None:
    """Every view exists, but a sagittal T1 does not show the canal."""
    save_segment(make_parts().segment(), tmp_path / "index")
    path = tmp_path / "index" / "evidence.npy"
    evidence = np.load(path)
    evidence["view"][evidence["view"] != 255] = 0
    np.save(path, evidence)
    with pytest.raises(IndexRefused, match="a view that does not show"):
        load_segment(tmp_path / "index", FINGERPRINT)


def test_parts_that_do_not_belong_together_are_refused() -> None:
    parts = make_parts()
    study, site = parts.keys[0]
    without = [pair for pair in parts.pairs if (pair.study_id, pair.site) != (study, site)]
    with pytest.raises(ValueError, match=f"study {study}, {site.words}: has an embedding, but no pair"):
        replace(parts, pairs=without).segment()
    shorter = {name: getattr(parts, name)[1:] for name in ("keys", "image_ND", "prob_N3", "weight_NV")}
    fewer = replace(parts, **shorter)
    with pytest.raises(ValueError, match=f"study {study}, {site.words}: has a pair in dataset.json, but no embedding"):
        fewer.segment()
    with pytest.raises(ValueError, match=r"is not in dataset\.json"):
        replace(parts, study_ids=[one for one in parts.study_ids if one != study]).segment()
    with pytest.raises(IndexRefused, match="sum is not 1"):
        replace(parts, prob_N3=parts.prob_N3 * 2).segment()


def test_an_image_that_does_not_follow_from_the_ids_is_refused() -> None:
    parts = make_parts()
    elsewhere = replace(parts.pairs[3], image="images/../../secret.png")
    pairs = [*parts.pairs[:3], elsewhere, *parts.pairs[4:]]
    with pytest.raises(ValueError, match=r"'images/\.\./\.\./secret\.png', but its ids say 'images/"):
        replace(parts, pairs=pairs).segment()


def test_ids_and_numbers_of_twelve_digits_are_kept(tmp_path: Path) -> None:
    parts = make_parts(studies=2, first=10**12)
    big = [replace(pair, instance_number=10**12 - 1, image="") for pair in parts.pairs]
    pairs = [replace(p, image=f"images/{p.study_id}/{p.series_id}/{p.instance_number}.png") for p in big]
    save_segment(replace(parts, pairs=pairs).segment(), tmp_path / "index")
    segment = load_segment(tmp_path / "index", FINGERPRINT)
    row, site = np.argwhere(segment.imaged_SX)[0].tolist()
    assert segment.evidence(row, site)[0].instance_number == 10**12 - 1 and segment.study_S[0] == 10**12


def test_nothing_imaged_is_an_index_too(tmp_path: Path) -> None:
    none = build_segment("test", [4, 2], [], np.zeros((0, 3), np.float32), np.zeros((0, 3)), [], [], FINGERPRINT)
    save_segment(none, tmp_path / "index")
    segment = load_segment(tmp_path / "index", FINGERPRINT)
    assert segment.study_S.tolist() == [2, 4] and not segment.imaged_SX.any()
