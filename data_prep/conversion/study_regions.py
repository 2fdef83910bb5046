"""The regions of one study in all views of its sites, and their crops."""

from collections import Counter
from collections.abc import Mapping

from data_prep.conversion.crop_geometry import CROP_SLICES, DEFAULT_CROPS, CropGeometry
from data_prep.conversion.crops import Crop, cut_crop
from data_prep.placement.regions import Missing, Position, Region, region
from data_prep.sites import SITES, Site
from data_prep.studies.studies import Study


def find_regions(
    study: Study, positions: Mapping[Site, Position], tiles: int = 1
) -> tuple[list[Region], dict[str, int]]:
    """Return the regions of all sites in all their views, in the order of `SITES`, and the missing ones by reason.

    tiles: the largest number of tiles of a region.
    """
    found, missing = [], Counter[str]()
    for site in SITES:
        for view in site.views:
            result = (
                region(study, positions[site], view, tiles) if site in positions else Missing(site, view, "no_position")
            )
            if isinstance(result, Missing):
                missing[result.reason] += 1
            else:
                found.append(result)
    return found, dict(missing)


def crop_of(study: Study, found: Region, geometry: CropGeometry = DEFAULT_CROPS) -> Crop:
    """Return the crops of a region, (tiles, 3, size, size)."""
    series = next(series for series in study.series if series.series_id == found.series_id)
    indices = [series.index(number) for number in found.instance_numbers]
    slices = [series.slices[index] for index in indices if index is not None]
    frames = [image.frame for image in slices if image.frame is not None]
    crop_SHW = cut_crop(
        [image.grey for image in slices], frames, found.centre_mm, found.view, found.site.side, geometry
    )
    return crop_SHW.reshape(-1, CROP_SLICES, geometry.size, geometry.size)
