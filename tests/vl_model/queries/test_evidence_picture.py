"""The pictures of evidence: letters, scale and proportions against what is measured on them."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from data_prep.conversion.pairs import png_path
from data_prep.geometry import Frame
from data_prep.sites import Source, View
from vl_model.queries.evidence_picture import EvidencePicture, NoPicture, read_picture
from vl_model.queries.picture_marks import bar_length_mm, edge_letters
from vl_model.queries.segment import Evidence

#: The image axes (along a row, down a column) of the three planes as scanners write them, in LPS.
PLANES = {"sagittal": [(0, 1, 0), (0, 0, -1)], "axial": [(1, 0, 0), (0, 1, 0)], "coronal": [(1, 0, 0), (0, 0, -1)]}
UPRIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def frame(directions: tuple[float, ...] = UPRIGHT, spacing: tuple[float, float] = (1.0, 1.0)) -> Frame:
    return Frame((-30.0, 20.0, 7.0), directions[:3], directions[3:], spacing, (120, 200))  # type: ignore[arg-type]


def letters_by_walking(directions: tuple[float, ...], columns: int, rows: int) -> str:
    """Walk from pixel (100, 60) so many pixels by equation C.7.6.2.1-1, and say where in the patient that leads."""
    start, end = (
        np.array([-30.0, 20.0, 7.0]) + np.array(directions[:3]) * column + np.array(directions[3:]) * row
        for column, row in ((100, 60), (100 + columns, 60 + rows))
    )
    step = (end - start) / np.linalg.norm(end - start)
    towards = {  # the patient's left is +x, his back +y, his head +z
        "L": step[0],
        "R": -step[0],
        "P": step[1],
        "A": -step[1],
        "S": step[2],
        "I": -step[2],
    }
    first, second = sorted(towards, key=lambda letter: -towards[letter])[:2]
    leans = np.rad2deg(np.arctan2(towards[second], towards[first])) > 26.565
    return first + second if leans else first


@pytest.mark.parametrize("plane", PLANES)
def test_letters_follow_from_the_direction_cosines(plane: str) -> None:
    random = np.random.default_rng(3)
    seen = set()
    for tilt in np.repeat([0, 8, 20, 35, 50, 180], 12):
        row, column = np.array(PLANES[plane], dtype=float)
        axis = random.normal(size=3)
        turn = Rotation.from_rotvec(np.deg2rad(tilt) * axis / np.linalg.norm(axis))
        signs = random.choice([-1, 1], size=2)
        directions = (*(signs[0] * turn.apply(row)), *(signs[1] * turn.apply(column)))
        if random.random() < 0.5:  # rows and columns exchanged
            directions = (*directions[3:], *directions[:3])
        found = edge_letters(frame(directions))
        expected = [letters_by_walking(directions, *step) for step in ((-1, 0), (1, 0), (0, -1), (0, 1))]
        assert [found.left, found.right, found.top, found.bottom] == expected
        seen.add(found.left)
    assert len(seen) > 6


def test_letters_of_the_usual_planes() -> None:
    axial, sagittal = edge_letters(frame()), edge_letters(frame((0, 1, 0, 0, 0, -1)))
    assert (axial.left, axial.right, axial.top, axial.bottom) == ("R", "L", "A", "P")
    assert (sagittal.left, sagittal.right, sagittal.top, sagittal.bottom) == ("A", "P", "S", "I")
    steep = np.deg2rad(35)
    assert edge_letters(frame((1, 0, 0, 0, np.cos(steep), -np.sin(steep)))).bottom == "PI"


def white_run(picture: Image.Image) -> int:
    """The longest horizontal run of white pixels: the scale bar, on a dark picture."""
    white = (np.asarray(picture) == 255).all(axis=2)
    longest = 0
    for row in white:
        ends = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
        longest = max(longest, int((ends[1::2] - ends[::2]).max(initial=0)))
    return longest


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (2.0, 0.5), (0.4, 1.1), (0.25, 0.25)])
def test_the_bar_is_as_long_as_it_says(spacing: tuple[float, float]) -> None:
    """Two grey columns 20 mm apart on the slice are as far apart on its pictures as the bar tells."""
    grey = np.zeros((120, 200), dtype=np.uint8)
    apart = 20 / spacing[1]
    ends = [round(100 - apart / 2), round(100 + apart / 2)]
    grey[:, ends] = 120
    box = (ends[0] - 40.0, 20.0, ends[1] + 40.0, 90.0)
    picture = EvidencePicture(Image.fromarray(grey), box, frame(spacing=spacing))
    for drawn, width_mm in ((picture.whole(), 200 * spacing[1]), (picture.crop(), (box[2] - box[0]) * spacing[1])):
        lit = np.asarray(drawn.convert("L"))[drawn.height // 4].astype(float)
        lit[~((lit > 20) & (lit <= 125))] = 0  # neither letters nor the box
        half = drawn.width / 2
        peaks = [np.average(part, weights=lit[part]) for part in np.split(np.arange(drawn.width), [int(half)])]
        pixels_per_mm = (peaks[1] - peaks[0]) / ((ends[1] - ends[0]) * spacing[1])
        bar = bar_length_mm(width_mm)
        assert bar in (20, 10)
        assert white_run(drawn) == pytest.approx(bar * pixels_per_mm, abs=1.5)


def test_pictures_are_in_true_proportions_and_show_the_box() -> None:
    grey = np.zeros((120, 200), dtype=np.uint8)
    grey[60:64, 30:46] = 200  # 8 mm by 8 mm
    picture = EvidencePicture(Image.fromarray(grey), (19.5, 51.5, 55.5, 71.5), frame(spacing=(2.0, 0.5)))
    whole, crop = picture.whole(), picture.crop()
    assert whole.width / whole.height == pytest.approx(100 / 240, abs=0.01)
    assert crop.size == (round(384 * 18 / 40), 384)
    for drawn, centre, span in ((whole, (38 / 200, 62 / 120), (0.07, 0.06)), (crop, (0.5, 0.5), (0.35, 0.3))):
        middle, reach = np.multiply(centre, drawn.size), np.multiply(span, drawn.size)
        left, upper = np.round(middle - reach).astype(int)
        part = np.asarray(drawn.convert("L"))[upper : 2 * round(middle[1]) - upper, left : 2 * round(middle[0]) - left]
        bright = np.argwhere(part > 100)
        height, width = np.ptp(bright, axis=0) + 1
        assert height == pytest.approx(width, rel=0.12)
        assert np.add(bright.mean(axis=0)[::-1], (left, upper)) == pytest.approx(middle, abs=0.015 * drawn.height)


def test_a_slice_without_geometry_has_neither_letters_nor_bar() -> None:
    picture = EvidencePicture(Image.new("L", (200, 120)), (10.0, 10.0, 60.0, 60.0), None)
    for drawn in (picture.whole(), picture.crop()):
        colours = {colour for _, colour in drawn.getcolors()}  # type: ignore[union-attr]
        assert colours <= {(0, 0, 0), (255, 210, 63)}


@pytest.mark.parametrize("box", [(-900.0, -900.0, -800.0, -800.0), (190.0, 3.0, 900.0, 4.0), (5.0, 5.0, 5.0, 5.0)])
def test_a_box_that_leaves_the_slice_shows_what_is_on_it(box: tuple[float, float, float, float]) -> None:
    picture = EvidencePicture(Image.new("L", (200, 120), 7), box, frame())
    assert max(picture.crop().size) == 384
    assert picture.whole().size == (512, 307)


def test_an_enormous_spacing_makes_no_enormous_picture() -> None:
    picture = EvidencePicture(Image.new("L", (200, 120), 7), (1.0, 1.0, 90.0, 90.0), frame(spacing=(20.0, 0.01)))
    assert max(*picture.whole().size, *picture.crop().size) <= 2048


def test_a_png_that_cannot_be_shown_is_told(tmp_path: Path) -> None:
    evidence = Evidence(View.AXIAL_T2, 2, 3, (1.0, 1.0, 9.0, 9.0), Source.ATLAS)
    path = tmp_path / "processed_data" / png_path(1, 2, 3)
    path.parent.mkdir(parents=True)

    def reason(own: Frame | None = None) -> str:
        with pytest.raises(NoPicture) as refused:
            read_picture(tmp_path / "processed_data", 1, evidence, own)
        return str(refused.value)

    assert reason() == "no such file"
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (120, 200), dtype=np.uint8))
    image.save(path)
    whole = path.read_bytes()
    assert read_picture(tmp_path / "processed_data", 1, evidence, frame()).grey.tobytes() == image.tobytes()
    for damaged in (b"", b"\x89PNG\r\n\x1a\n", whole[:60], whole[: len(whole) // 2], whole[:16] + b"\xff" * 8):
        path.write_bytes(damaged)
        assert reason() == "it cannot be read"
    random = np.random.default_rng(1)
    for _ in range(60):  # no damage is a traceback
        spoilt = bytearray(whole)
        for place in random.integers(0, 90, 4):
            spoilt[place] = random.integers(256)
        path.write_bytes(spoilt)
        with suppress(NoPicture):
            read_picture(tmp_path / "processed_data", 1, evidence, None)
    image.save(path, format="GIF")
    assert reason() == "it cannot be read"
    image.crop((0, 0, 100, 100)).save(path, format="PNG")
    assert reason(frame()) == "it has 100 rows and 100 columns instead of 120 and 200"
    image.save(tmp_path / "elsewhere.png")
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere.png")
    assert reason() == "it lies outside processed_data"
    path.unlink()
    path.symlink_to(path)
    assert reason() in ("it cannot be read", "no such file")
