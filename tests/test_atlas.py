"""data_prep/atlas.py: known poses are found again, in numbers and in phantom studies nobody marked."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.atlas import example_of, learn_atlas, load_atlas
from data_prep.cohorts import split_cohort
from data_prep.layout import DataRoot
from data_prep.phantom import write_cohort
from data_prep.pose import Pose, fit_pose
from data_prep.regions import marked_positions
from data_prep.sites import SITES, Level, Source
from data_prep.studies import read_study


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    root = write_cohort(tmp_path_factory.mktemp("atlas"), train=6, test=0, seed=3)
    studies = [read_study(folder)[0] for folder in split_cohort(DataRoot(root), "train").folders]
    return [(study, marked_positions(study)[0]) for study in studies]


@pytest.fixture(scope="module")
def atlas(marked):  # type: ignore[no-untyped-def]
    examples = [example_of(study, positions) for study, positions in marked[2:]]
    return learn_atlas([example for example in examples if example is not None])


def test_a_pose_is_recovered_from_some_of_its_points() -> None:
    random = np.random.default_rng(0)
    shape = random.normal(scale=[15, 10, 50], size=(25, 3))
    pose = Pose(np.array([3.0, -40.0, 12.0]), scale=1.1, tilt=0.2)
    placed = pose.apply(shape)
    np.testing.assert_allclose(pose.invert(placed), shape)
    # Scale is told in the sagittal plane alone, so the points must share it in x.
    placed[random.random(25) < 0.5] = np.nan
    found = fit_pose(shape, placed)
    np.testing.assert_allclose([found.scale, found.tilt], [1.1, 0.2])
    np.testing.assert_allclose(found.origin_mm, pose.origin_mm, atol=1e-9)


def test_unmarked_studies_are_found_by_their_pictures(marked, atlas) -> None:  # type: ignore[no-untyped-def]
    errors = []
    for study, positions in marked[:2]:
        found = atlas.place(study, {})
        assert set(found) == set(SITES) and {place.source for place in found.values()} == {Source.ATLAS}
        errors += [
            np.subtract(found[site].point_mm, place.point_mm) for site, place in positions.items() if site in found
        ]
    distance = np.linalg.norm(errors, axis=1)
    assert np.median(distance) < 5 and distance.max() < 15  # levels lie some 35 mm apart: none is skipped


def test_a_studys_own_marks_place_its_other_sites(marked, atlas) -> None:  # type: ignore[no-untyped-def]
    study, positions = marked[0]
    known = {site: place for site, place in positions.items() if site.level is not Level.L3_L4}
    found = atlas.place(study, known)
    assert not set(found) & set(known)
    errors = [np.subtract(place.point_mm, positions[site].point_mm) for site, place in found.items()]
    distance = np.linalg.norm(errors, axis=1)
    assert np.median(distance) < 4 and distance.max() < 8  # a mark itself is as coarse as its axial slices


def test_an_atlas_is_kept_in_a_file(tmp_path: Path, marked, atlas) -> None:  # type: ignore[no-untyped-def]
    atlas.save(tmp_path / "atlas.json")
    again = load_atlas(tmp_path / "atlas.json")
    assert again.fingerprint == atlas.fingerprint
    study, _ = marked[0]
    here, there = atlas.place(study, {}), again.place(study, {})
    assert max(np.abs(np.subtract(here[site].point_mm, there[site].point_mm)).max() for site in SITES) < 0.01
    (tmp_path / "atlas.json").write_text('{"schema_version": 99}')
    with pytest.raises(ValueError, match="not an atlas"):
        load_atlas(tmp_path / "atlas.json")


def test_nothing_is_learned_from_nothing() -> None:
    assert learn_atlas([]) is None
