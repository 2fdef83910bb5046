"""Draw the regions of one prepared study on their slices, for visual inspection.

    python -m data_prep.conversion.region_sheet --root DATA --split train --study 2736665588 --out regions.png

Only processed_data is read. Each pair of the study has a panel: the complete slice in true proportions, the
pair's box, a cross at the site's position in ``sites.csv``, the pair's caption, the source of the position, and
the series and number of the slice. L and R mark the patient's sides on axial slices, according to their geometry.
A row is one condition and side in one view, from L1-L2 to L5-S1; sites that are not imaged have an empty panel.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from data_prep.conversion.pairs import Pair, read_dataset
from data_prep.conversion.slice_frames import frame_of
from data_prep.geometry import Frame, Vector
from data_prep.sites import SITES, Condition, Level, Side, Site, View
from workspace.cli import run_command
from workspace.layout import data_root
from workspace.root_settings import RootSettings
from workspace.setting_error import SettingError
from workspace.settings_parser import read_settings

PROG = "-m data_prep.conversion.region_sheet"
PANEL, TITLE, GAP = 264, 42, 6
BOX_COLOUR, MARK_COLOUR, SIDE_COLOUR = (255, 200, 0), (255, 60, 60), (110, 200, 255)
#: Number of grey levels in the written file.
GREYS = 80

Positions = dict[Site, Vector]
SliceKey = tuple[int, int]


@dataclass(frozen=True)
class StudyRegions:
    """The pairs, site positions and frames of one study; frames are by (series, instance)."""

    processed: Path
    pairs: dict[tuple[Site, View], Pair]
    positions_mm: Positions
    frames: dict[SliceKey, Frame]


@dataclass(frozen=True)
class Settings(RootSettings):
    """Settings of the sheet of regions."""

    split: Literal["train", "test"] = "train"
    """The split of the study."""
    study: int | None = None
    """The id of the study to draw. By default a study with the most regions."""
    out: str = "regions.png"
    """The PNG file to write."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    if Path(settings.out).suffix.lower() != ".png":
        raise SettingError("out", f"{settings.out!r}: expected a file that ends in .png")
    processed = data_root(settings.root).processed(settings.split)
    study = read_study_regions(processed, settings.study)
    sheet = draw_sheet(study)
    sheet.quantize(palette=_palette(), dither=Image.Dither.NONE).save(settings.out, optimize=True)
    study_id = next(iter(study.pairs.values())).study_id
    print(f"{settings.out}: {len(study.pairs)} regions of study {study_id}")


def read_study_regions(processed: Path, study_id: int | None) -> StudyRegions:
    """Read one study of a prepared split; without an id, the first of those with the most pairs.

    Raises ValueError if the study has no regions.
    """
    pairs = read_dataset(processed).pairs
    if not pairs:
        raise ValueError(f"{processed}: none of its studies has a region")
    if study_id is None:
        counts: dict[int, int] = {}
        for pair in pairs:
            counts[pair.study_id] = counts.get(pair.study_id, 0) + 1
        study_id = max(counts, key=lambda one: counts[one])
    own = {(pair.site, pair.view): pair for pair in pairs if pair.study_id == study_id}
    if not own:
        raise SettingError("study", f"{study_id}: it has no regions in {processed}")
    return StudyRegions(processed, own, _positions(processed, study_id), _frames(processed, study_id))


def _rows(path: Path, study_id: int) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if int(row["study_id"]) == study_id]


def _positions(processed: Path, study_id: int) -> Positions:
    positions = {}
    for row in _rows(processed / "sites.csv", study_id):
        positions[Site.from_columns(row)] = (float(row["x_mm"]), float(row["y_mm"]), float(row["z_mm"]))
    return positions


def _frames(processed: Path, study_id: int) -> dict[SliceKey, Frame]:
    frames = {}
    for row in _rows(processed / "slices.csv", study_id):
        frame = frame_of(row)
        if frame is not None:
            frames[int(row["series_id"]), int(row["instance_number"])] = frame
    return frames


def draw_sheet(study: StudyRegions) -> Image.Image:
    """Draw all panels: a row per condition, side and view, a column per level."""
    groups: dict[tuple[Condition, Side | None], list[Site]] = {}
    for site in SITES:
        groups.setdefault((site.condition, site.side), []).append(site)
    rows = [[(site, view) for site in sites] for sites in groups.values() for view in sites[0].views]
    sheet = Image.new("RGB", (len(Level) * (PANEL + GAP) - GAP, len(rows) * (PANEL + TITLE)))
    for number, row in enumerate(rows):
        for column, (site, view) in enumerate(row):
            panel = draw_panel(study, site, view)
            sheet.paste(panel, (column * (PANEL + GAP), number * (PANEL + TITLE)))
    return sheet


def draw_panel(study: StudyRegions, site: Site, view: View) -> Image.Image:
    """Draw one pair: title, slice, box and cross."""
    panel = Image.new("RGB", (PANEL, PANEL + TITLE))
    pair = study.pairs.get((site, view))
    if pair is None:
        _write(panel, [site.words, f"{view.words}: not imaged"])
        return panel
    frame = study.frames[pair.series_id, pair.instance_number]
    x, y, z = study.positions_mm[site]
    where = f"{pair.source}, {view.words}, {pair.series_id}/{pair.instance_number}"
    _write(panel, [pair.text, where, f"site at x {x:.0f}, y {y:.0f}, z {z:.0f} mm"])

    rows, columns = frame.shape
    height_mm, width_mm = rows * frame.spacing_mm[0], columns * frame.spacing_mm[1]
    per_mm = PANEL / max(height_mm, width_mm)
    with Image.open(study.processed / pair.image) as image:
        size = (max(round(width_mm * per_mm), 1), max(round(height_mm * per_mm), 1))
        panel.paste(image.convert("L").resize(size, Image.Resampling.LANCZOS), (0, TITLE))

    def on_panel(column: float, row: float) -> tuple[float, float]:
        """Map a pixel to the panel; the centre of the first pixel is half a pixel inside the image."""
        return (column + 0.5) * frame.spacing_mm[1] * per_mm, TITLE + (row + 0.5) * frame.spacing_mm[0] * per_mm

    draw = ImageDraw.Draw(panel)
    x0, y0, x1, y1 = pair.box
    draw.rectangle((*on_panel(x0, y0), *on_panel(x1, y1)), outline=BOX_COLOUR)
    column, row = on_panel(*frame.to_pixel((x, y, z)))
    draw.line((column - 4, row, column + 4, row), fill=MARK_COLOUR)
    draw.line((column, row - 4, column, row + 4), fill=MARK_COLOUR)
    if not view.is_sagittal:
        at_left, at_right = ("L", "R") if frame.axes[0][0] < 0 else ("R", "L")
        for letter, left in ((at_left, 0), (at_right, size[0] - 12)):
            draw.rectangle((left, TITLE, left + 12, TITLE + 14), fill=(0, 0, 0))
            draw.text((left + 3, TITLE), letter, fill=SIDE_COLOUR, font=_font())
    return panel


def _palette() -> Image.Image:
    """Return a palette of greys and the colours of box, mark and sides, which a file of few colours must keep."""
    palette = Image.new("P", (1, 1))
    greys = [round(255 * level / (GREYS - 1)) for level in range(GREYS)]
    palette.putpalette([*(part for grey in greys for part in (grey,) * 3), *BOX_COLOUR, *MARK_COLOUR, *SIDE_COLOUR])
    return palette


def _write(panel: Image.Image, lines: list[str]) -> None:
    draw = ImageDraw.Draw(panel)
    for number, line in enumerate(lines):
        draw.text((2, 1 + 13 * number), line, fill=(235, 235, 235), font=_font())


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(10)


if __name__ == "__main__":
    run_command(PROG, main)
