"""data_prep/placement/atlas.py: known poses are recovered from points and from unannotated phantom studies."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.geometry import Frame
from data_prep.phantom import write_cohort
from data_prep.placement.atlas import FOUND_ERROR_MM, Example, example_of, learn_atlas, load_atlas
from data_prep.placement.pose import Pose, fit_pose
from data_prep.placement.regions import Missing, Position, marked_positions, region
from data_prep.placement.shipped_atlas import shipped_atlas
from data_prep.sites import SITES, Level, Source, View
from data_prep.studies.cohorts import split_cohort
from data_prep.studies.studies import Series, Slice, Study, read_study
from workspace.layout import DataRoot


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
    # The scale is estimated in the sagittal plane alone, and applied to x too.
    placed[random.random(25) < 0.5] = np.nan
    found = fit_pose(shape, placed)
    np.testing.assert_allclose([found.scale, found.tilt], [1.1, 0.2])
    np.testing.assert_allclose(found.origin_mm, pose.origin_mm, atol=1e-9)


def test_unannotated_studies_are_placed_by_their_images(marked, atlas) -> None:  # type: ignore[no-untyped-def]
    errors = []
    for study, positions in marked[:2]:
        found = atlas.place(study, {})
        assert set(found) == set(SITES) and {place.source for place in found.values()} == {Source.ATLAS}
        errors += [
            np.subtract(found[site].point_mm, place.point_mm) for site, place in positions.items() if site in found
        ]
    distance = np.linalg.norm(errors, axis=1)
    assert np.median(distance) < 5 and distance.max() < 15  # levels are some 35 mm apart, so no level is confused


def test_the_shipped_atlas_places_every_site_of_a_new_study(marked) -> None:  # type: ignore[no-untyped-def]
    shipped, errors = shipped_atlas(), []
    for study, positions in marked:
        found = shipped.place(study, {})
        assert set(found) == set(SITES)
        errors += [np.subtract(found[site].point_mm, place.point_mm) for site, place in positions.items()]
    distance = np.linalg.norm(errors, axis=1)
    assert np.median(distance) < 5 and np.mean(distance < 15) > 0.9


def test_a_studys_own_marks_place_its_other_sites(marked, atlas) -> None:  # type: ignore[no-untyped-def]
    study, positions = marked[0]
    known = {site: place for site, place in positions.items() if site.level is not Level.L3_L4}
    found = atlas.place(study, known)
    assert not set(found) & set(known)
    errors = [np.subtract(place.point_mm, positions[site].point_mm) for site, place in found.items()]
    distance = np.linalg.norm(errors, axis=1)
    assert np.median(distance) < 4 and distance.max() < 8  # marks are as coarse as the spacing of axial slices


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


def marked_at(*words: str):  # type: ignore[no-untyped-def]
    """Return whether a site's key contains one of these words."""
    return lambda site: any(word in site.key for word in words)


@pytest.mark.parametrize(
    "is_marked",
    [
        marked_at("foraminal"),
        marked_at("left_neural"),
        marked_at("subarticular"),
        marked_at("spinal"),
        marked_at("l3_l4", "l4_l5", "l5_s1"),
        marked_at("foraminal_narrowing_l2", "foraminal_narrowing_l4"),
        lambda site: "spinal" in site.key and "l1_l2" not in site.key,
    ],
    ids=["foraminal", "left foraminal", "subarticular", "canal", "three levels", "two levels", "four canal levels"],
)
def test_an_atlas_is_learned_from_whatever_sites_are_marked(marked, atlas, is_marked) -> None:  # type: ignore[no-untyped-def]
    """The sites that no study marks lie where the shipped atlas has them relative to those that are marked."""
    shipped = shipped_atlas().shape_N3
    chosen = [(study, {site: place for site, place in known.items() if is_marked(site)}) for study, known in marked]
    examples = [example_of(study, positions, shipped) for study, positions in chosen[2:]]
    partial = learn_atlas([example for example in examples if example is not None], shipped)
    assert partial is not None and partial.studies == 4 and np.isfinite(partial.shape_N3).all()
    assert set(partial.templates) == set(atlas.templates) and set(partial.offset_mm) == set(View)
    marks = np.array([is_marked(site) for site in SITES])
    pose = fit_pose(partial.shape_N3[marks], atlas.shape_N3[marks])
    distance = np.linalg.norm(pose.apply(partial.shape_N3) - atlas.shape_N3, axis=1)
    assert distance[marks].max() < 3 and distance.max() < 12  # of levels that are some 35 mm apart
    for (study, own), (_, positions) in list(zip(chosen, marked, strict=True))[:2]:
        placed = partial.place(study, own)
        assert set(placed) == set(SITES) - set(own)
        errors = [np.subtract(place.point_mm, positions[site].point_mm) for site, place in placed.items()]
        assert np.linalg.norm(errors, axis=1).max() < 15
        found = partial.place(study, {})
        assert len(found) == len(SITES)
        errors = [np.subtract(place.point_mm, positions[site].point_mm) for site, place in found.items()]
        assert np.median(np.linalg.norm(errors, axis=1)) < 8


def test_marks_of_one_level_determine_no_atlas(marked) -> None:  # type: ignore[no-untyped-def]
    shipped = shipped_atlas().shape_N3
    for study, positions in marked:
        own = {site: place for site, place in positions.items() if site.level is Level.L4_L5}
        assert example_of(study, own, shipped) is None
    assert learn_atlas([], shipped) is None


def test_where_every_site_is_marked_the_shipped_atlas_has_no_influence(marked, atlas) -> None:  # type: ignore[no-untyped-def]
    shipped = shipped_atlas().shape_N3
    examples = [example_of(study, positions, shipped) for study, positions in marked[2:]]
    again = learn_atlas([example for example in examples if example is not None], shipped)
    assert again is not None and again.fingerprint == atlas.fingerprint


def test_without_examples_there_is_no_atlas() -> None:
    assert learn_atlas([]) is None


def turned(image: Slice) -> Slice:
    """Return the same slice with both pixel axes reversed, and the geometry for it."""
    frame = image.frame
    assert frame is not None
    rows, columns = frame.shape
    there = Frame(
        tuple(frame.to_patient((columns - 1, rows - 1))),
        tuple(-part for part in frame.row_direction),
        tuple(-part for part in frame.column_direction),
        frame.spacing_mm,
        frame.shape,
    )
    return Slice(image.instance_number, there, np.ascontiguousarray(image.grey[::-1, ::-1]))


def backwards(series: Series) -> Series:
    """Reverse the order of acquisition: slices are sorted by position, so only their numbers change."""
    numbers = [image.instance_number for image in series.slices][::-1]
    slices = [replace(image, instance_number=number) for image, number in zip(series.slices, numbers, strict=True)]
    return replace(series, slices=tuple(slices))


def with_series(study: Study, change) -> Study:  # type: ignore[no-untyped-def]
    changed = [change(series) for series in study.series]
    return replace(study, series=tuple(series for series in changed if series is not None))


def regions_as_text(study: Study, positions: dict) -> str:
    """Return every region as JSON, which raises for numbers that are not finite."""
    regions = [region(study, positions[site], view) for site in positions for view in site.views]
    content = [[found.site.key, found.centre_mm, found.box] for found in regions if not isinstance(found, Missing)]
    return json.dumps(content, allow_nan=False)


def blank(image: Slice) -> Slice:
    return Slice(image.instance_number, image.frame, np.zeros_like(image.grey))


def narrow(image: Slice) -> Slice:
    """Keep one column of an image."""
    assert image.frame is not None
    return Slice(image.instance_number, replace(image.frame, shape=(image.grey.shape[0], 1)), image.grey[:, :1])


def each(change):  # type: ignore[no-untyped-def]
    return lambda series: replace(series, slices=tuple(change(image) for image in series.slices))


CRIPPLED = {
    "no T2": lambda series: None if series.view is View.SAGITTAL_T2_STIR else series,
    "axial alone": lambda series: series if series.view is View.AXIAL_T2 else None,
    "one slice each": lambda series: replace(series, slices=series.slices[6:7], stacks=((0,),)),
    "blank": each(blank),
    "narrow": each(narrow),
}


@pytest.mark.parametrize("what", CRIPPLED)
def test_an_incomplete_unannotated_study_has_25_finite_positions(marked, atlas, what: str) -> None:  # type: ignore[no-untyped-def]
    study = with_series(marked[0][0], CRIPPLED[what])
    found = atlas.place(study, {})
    assert set(found) == set(SITES)
    assert np.isfinite([place.point_mm for place in found.values()]).all()
    regions_as_text(study, found)


def test_positions_do_not_depend_on_how_images_are_stored(marked, atlas) -> None:  # type: ignore[no-untyped-def]
    study = marked[1][0]
    plain = atlas.place(study, {})
    assert atlas.place(with_series(study, backwards), {}) == plain
    other_way = with_series(study, each(turned))
    for site, place in atlas.place(other_way, {}).items():
        assert np.linalg.norm(np.subtract(place.point_mm, plain[site].point_mm)) < 2.5  # a step of the search grid
        for view in site.views:
            here, there = region(study, plain[site], view), region(other_way, plain[site], view)
            assert isinstance(here, Missing) == isinstance(there, Missing)
            if not isinstance(here, Missing) and not isinstance(there, Missing):
                assert here.instance_numbers == there.instance_numbers


def test_a_study_without_geometry_has_no_positions(marked, atlas) -> None:  # type: ignore[no-untyped-def]
    without_geometry = with_series(
        marked[0][0], lambda s: replace(s, slices=tuple(replace(image, frame=None) for image in s.slices), stacks=())
    )
    assert atlas.place(without_geometry, {}) == {}
    assert atlas.place(with_series(marked[0][0], lambda s: replace(s, view=None)), {}) == {}
    assert atlas.place(Study(1, ()), {}) == {}


def test_impossible_marks_do_not_determine_the_pose(marked, atlas) -> None:  # type: ignore[no-untyped-def]
    study = marked[1][0]
    by_image = atlas.place(study, {})
    canal = [site for site in SITES if site.side is None]
    for z_mm in ([0.0] * 5, [-60.0, -30.0, 0.0, 30.0, 60.0]):  # all at one height; head down
        known = {s: Position(s, (0.0, 0.0, z), Source.ANNOTATED) for s, z in zip(canal, z_mm, strict=True)}
        found = atlas.place(study, known)
        assert set(found) == set(SITES) - set(canal)
        spread = np.ptp([place.point_mm[2] for place in found.values()])
        usual = np.ptp([by_image[site].point_mm[2] for site in found])
        assert np.isfinite(spread) and spread < usual + 2 * np.ptp([*z_mm, 100.0])


def test_one_absurd_example_does_not_spoil_the_atlas(marked, atlas) -> None:  # type: ignore[no-untyped-def]
    examples = [example_of(study, positions) for study, positions in marked[2:]]
    assert all(example is not None for example in examples)
    head_down = Example(examples[0].position_N3 * (1, 1, -1), examples[0].middle_mm, examples[0].patches)
    few = Example(np.where(np.arange(25)[:, None] < 1, examples[0].position_N3, np.nan), {}, {})
    again = learn_atlas([*examples, head_down, few])
    assert again is not None and again.studies == len(examples) == atlas.studies
    # The size and tilt of the mean spine are arbitrary; its shape is not.
    pose = fit_pose(atlas.shape_N3, again.shape_N3)
    assert 0.95 < pose.scale < 1.05 and np.nanmax(np.abs(pose.invert(again.shape_N3) - atlas.shape_N3)) < 1
    assert learn_atlas([few]) is None


def test_the_atlas_says_how_certain_it_is(marked, atlas) -> None:  # type: ignore[no-untyped-def]
    """Its levels are certain with marks, less so by its images, and doubtful where no image shows the sacrum."""
    study, positions = marked[0]

    def certainty(placer, one: Study, known=None) -> tuple[float, float]:  # type: ignore[no-untyped-def]
        cells = {(p.level_confidence, p.expected_error_mm) for p in placer.place(one, known or {}).values()}
        assert len(cells) == 1
        return cells.pop()

    some = {site: position for site, position in positions.items() if site.level in (Level.L3_L4, Level.L5_S1)}
    by_marks, by_images, shipped = (
        certainty(atlas, study, some),
        certainty(atlas, study),
        certainty(shipped_atlas(), study),
    )
    assert by_marks[0] == 0.99 and 0.8 < by_images[0] <= 0.97 and 0.4 < shipped[0] <= 0.7
    assert by_marks[1] < by_images[1] < 15 < shipped[1]
    lowest = min(point.point_mm[2] for point in positions.values())
    for end_mm in (lowest + 30, lowest, lowest - 10):
        cut = _without_rows_below(study, end_mm)
        assert certainty(atlas, cut)[0] < 0.8 and certainty(atlas, cut)[1] > 15
    axial = replace(study, series=tuple(series for series in study.series if series.view is View.AXIAL_T2))
    assert certainty(atlas, axial)[0] < 0.97
    untrusted = {
        site: replace(position, source=Source.LOCATED, level_confidence=0.6) for site, position in some.items()
    }
    assert certainty(atlas, study, untrusted)[0] == 0.6
    # A smaller confidence from elsewhere makes the expected error larger, too; a larger one changes nothing.
    capped = {(p.level_confidence, p.expected_error_mm) for p in atlas.place(study, {}, 0.5).values()}
    assert [confidence for confidence, _ in capped] == [0.5]
    level_mm_2 = (by_images[1] ** 2 - FOUND_ERROR_MM**2) / (1 - by_images[0])
    assert capped.pop()[1] == pytest.approx(np.sqrt(FOUND_ERROR_MM**2 + 0.5 * level_mm_2), abs=0.05)
    assert atlas.place(study, {}, 0.999) == atlas.place(study, {})


def _without_rows_below(study: Study, end_mm: float) -> Study:
    """Crop sagittal images at a height; their rows run downwards."""

    def cropped(image: Slice) -> Slice:
        assert image.frame is not None
        rows = [row for row in range(image.shape[0]) if image.frame.to_patient((0, row))[2] >= end_mm]
        frame = replace(image.frame, shape=(len(rows), image.shape[1]))
        return replace(image, frame=frame, source=image.grey[: len(rows)])

    return replace(
        study,
        series=tuple(
            replace(series, slices=tuple(cropped(image) for image in series.slices))
            if series.view is not None and series.view.is_sagittal
            else series
            for series in study.series
        ),
    )
