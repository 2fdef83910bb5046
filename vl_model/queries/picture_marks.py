"""What is written onto the picture of a slice: the patient's sides at its edges, and a scale bar.

Both follow from the geometry of the slice (`data_prep.geometry.Frame`); a slice whose geometry is not known gets none.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from data_prep.geometry import Array, Frame

#: The letters of the patient's axes (x, y, z) in LPS, towards greater and towards smaller coordinates.
LETTERS = (("L", "R"), ("P", "A"), ("S", "I"))
#: An edge gets a second letter if its direction leans towards that side by more than this share of the first.
LEAN = 0.5
#: Lengths of scale bars in mm, the best first, and the largest share of a picture's width that a bar may take.
BARS_MM, WIDEST_BAR = (20, 10), 0.4

_LETTER_COLOUR, _BAR_COLOUR, _OUTLINE = (120, 205, 255), (255, 255, 255), (0, 0, 0)
#: Pictures with a shorter side than this many pixels have no room for marks.
_LEAST_PIXELS = 96


@dataclass(frozen=True)
class EdgeLetters:
    """The sides of the patient that the edges of an image point to, such as ``A`` or ``PI``."""

    left: str
    right: str
    top: str
    bottom: str


def edge_letters(frame: Frame) -> EdgeLetters:
    """Return the letters of an image's edges, from its direction cosines.

    >>> edge_letters(Frame((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 1.0), (9, 9)))
    EdgeLetters(left='R', right='L', top='A', bottom='P')
    """
    row_direction, column_direction = frame.axes
    return EdgeLetters(
        side_letters(-row_direction),
        side_letters(row_direction),
        side_letters(-column_direction),
        side_letters(column_direction),
    )


def side_letters(direction: Array) -> str:
    """Return the letter of the side that a direction (x, y, z) in LPS points to most, and of the next if it leans."""
    size = abs(direction)
    first, second, _ = sorted(range(3), key=lambda axis: -size[axis])
    axes = (first, second) if size[second] > LEAN * size[first] else (first,)
    return "".join(LETTERS[axis][int(direction[axis] < 0)] for axis in axes)


def bar_length_mm(width_mm: float) -> int | None:
    """Return the length of the scale bar of a picture that is so wide; None if each is too long for it."""
    return next((length for length in BARS_MM if length <= WIDEST_BAR * width_mm), None)


def draw_marks(picture: Image.Image, frame: Frame, pixels_per_mm: float) -> None:
    """Draw letters and scale bar onto an RGB picture of the slice of `frame`, or of a part of it."""
    if min(picture.size) < _LEAST_PIXELS:
        return
    draw = ImageDraw.Draw(picture)
    font = mark_font(max(15, round(max(picture.size) / 24)), bold=True)
    _draw_letters(draw, picture.size, edge_letters(frame), font)
    _draw_bar(draw, picture.size, pixels_per_mm, font)


def _draw_letters(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], letters: EdgeLetters, font: ImageFont.FreeTypeFont
) -> None:
    width, height = size
    gap = round(font.size / 2)
    for text, place, anchor in (
        (letters.left, (gap, height / 2), "lm"),
        (letters.right, (width - 1 - gap, height / 2), "rm"),
        (letters.top, (width / 2, gap), "mt"),
        (letters.bottom, (width / 2, height - 1 - gap), "mb"),
    ):
        draw.text(place, text, _LETTER_COLOUR, font, anchor, stroke_width=1, stroke_fill=_OUTLINE)


def _draw_bar(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], pixels_per_mm: float, font: ImageFont.FreeTypeFont
) -> None:
    width, height = size
    length_mm = bar_length_mm(width / pixels_per_mm)
    if length_mm is None:
        return
    gap, thick = round(font.size / 2), max(2, round(font.size / 6))
    right, bottom = width - 1 - gap, height - 1 - gap
    # Both ends are pixels of the bar.
    left = right - round(length_mm * pixels_per_mm) + 1
    draw.rectangle((left - 1, bottom - thick, right + 1, bottom + 1), _OUTLINE)
    draw.rectangle((left, bottom - thick + 1, right, bottom), _BAR_COLOUR)
    place = (right, bottom - thick - gap / 2)
    draw.text(place, f"{length_mm} mm", _BAR_COLOUR, font, "rs", stroke_width=1, stroke_fill=_OUTLINE)


@cache
def mark_font(pixels: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return a font of this size; characters that it lacks are drawn as boxes, without a warning."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(file, pixels, layout_engine=ImageFont.Layout.BASIC)
