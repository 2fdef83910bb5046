"""The geometry of crops: how wide they are, how fine, and how many tiles of each view are stored.

It is chosen when a split is prepared and recorded in ``crops.json``; whatever reads crops takes it from there. Nothing
here imports numpy or torch: ``--help`` reads it.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from workspace.setting_error import SettingError

#: Defaults: the width of a crop, of the central square of it that the model gets (the margin is for augmentation), and
#: of a pixel.
FIELD_MM, VIEW_MM, PIXEL_MM = 64.0, 48.0, 0.5
#: Slices of a tile: they become the three channels of a model's input.
CROP_SLICES = 3
#: Limits of the width: a narrower crop does not show a whole site, and a wider one is not about one site.
LEAST_FIELD_MM, LARGEST_FIELD_MM = 32.0, 256.0
#: Limits of the width in pixels. Of fewer, the plain baseline could not describe a site.
LEAST_SIZE, LARGEST_SIZE = 32, 1024
LARGEST_TILES = 15
#: A width is a whole number of pixels up to this share of a pixel: decimal numbers have no exact floats.
WHOLE = 1e-6


@dataclass(frozen=True)
class CropGeometry:
    """The geometry of the crops of a split.

    Raises SettingError for a geometry that no crop can have; the error names the setting.

    Attributes:
        field_mm: The width and height of a crop.
        pixel_mm: The width and height of its pixels.
        tiles_per_view: The largest number of tiles of a site in one view, each of three neighbouring slices: the one at
            the site, and equally many before and after it.
    """

    field_mm: float = FIELD_MM
    pixel_mm: float = PIXEL_MM
    tiles_per_view: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.pixel_mm < math.inf:
            raise SettingError("pixel_mm", f"{self.pixel_mm:g}: must be greater than 0")
        if not LEAST_FIELD_MM <= self.field_mm <= LARGEST_FIELD_MM:
            raise SettingError(
                "field_mm",
                f"{self.field_mm:g}: must be between {LEAST_FIELD_MM:g} and {LARGEST_FIELD_MM:g}; it should exceed the "
                f"width of the model's tile (--view_mm, by default {VIEW_MM:g})",
            )
        pixels = self.field_mm / self.pixel_mm
        if not LEAST_SIZE <= pixels <= LARGEST_SIZE:
            raise SettingError(
                "pixel_mm",
                f"{self.pixel_mm:g}: makes crops of {pixels:.0f} pixels from a field of {self.field_mm:g} mm; "
                f"they must have {LEAST_SIZE} to {LARGEST_SIZE}",
            )
        if abs(pixels - round(pixels)) > WHOLE:
            nearest = [f"{number * self.pixel_mm:.6g}" for number in (math.floor(pixels), math.ceil(pixels))]
            raise SettingError(
                "field_mm",
                f"{self.field_mm:g}: is no whole number of pixels of {self.pixel_mm:g} mm ({pixels:.2f}); choose "
                f"{' or '.join(nearest)}",
            )
        if not 1 <= self.tiles_per_view <= LARGEST_TILES or self.tiles_per_view % 2 == 0:
            raise SettingError(
                "tiles_per_view",
                f"{self.tiles_per_view}: must be an odd number from 1 to {LARGEST_TILES}, because one tile lies at the "
                "site and equally many on both sides of it",
            )

    def check_view(self, view_mm: float) -> None:
        """Raise SettingError if tiles of this width are wider than the crops."""
        if view_mm > self.field_mm:
            raise SettingError(
                "view_mm",
                f"{view_mm:g}: is wider than the crops of this data set, which have {self.field_mm:g} mm; "
                f"lower it, or run prepare_data.py again with a larger --field_mm",
            )

    @property
    def size(self) -> int:
        """The width and height of a crop in pixels."""
        return round(self.field_mm / self.pixel_mm)

    @property
    def bytes_per_tile(self) -> int:
        """The size of one stored tile."""
        return CROP_SLICES * self.size**2

    @property
    def changes(self) -> dict[str, Any]:
        """The settings that differ from the defaults, by name."""
        return {name: value for name, value in asdict(self).items() if value != getattr(DEFAULT_CROPS, name)}

    def __str__(self) -> str:
        tiles = f", {self.tiles_per_view} tiles per view" if self.tiles_per_view > 1 else ""
        return f"{self.field_mm:g} mm at {self.pixel_mm:g} mm per pixel{tiles}"

    def difference(self, found: "CropGeometry") -> str:
        """Return in words how crops that are found differ from these: ``pixels of 0.5 mm, not 0.3 mm``; "" if not."""
        words = {"pixel_mm": "pixels of {:g} mm, not {:g} mm", "field_mm": "a width of {:g} mm, not {:g} mm"}
        words["tiles_per_view"] = "{} tile(s) per view, not {}"
        for name, text in words.items():
            own, other = getattr(self, name), getattr(found, name)
            if own != other:
                return text.format(own, other)
        return ""

    @property
    def flags(self) -> str:
        """The flags of prepare_data.py that make such crops."""
        return " ".join(f"--{name} {value:g}" for name, value in asdict(self).items())


DEFAULT_CROPS = CropGeometry()


def crop_geometry(content: Mapping[str, Any]) -> CropGeometry:
    """Return the geometry from a JSON object; what it lacks has its default, as in files of earlier versions.

    Raises ValueError if an entry is no number, or no crop can have this geometry.
    """
    values = {entry.name: content.get(entry.name, entry.default) for entry in fields(CropGeometry)}
    if wrong := [
        name for name, value in values.items() if isinstance(value, bool) or not isinstance(value, int | float)
    ]:
        raise ValueError(f"{wrong[0]} {values[wrong[0]]!r}: is no number")
    return CropGeometry(float(values["field_mm"]), float(values["pixel_mm"]), int(values["tiles_per_view"]))
