"""data_prep/conversion/region_sheet.py: boxes and crosses are drawn at their positions, in true proportions."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.conversion.convert import convert_cohort, learn_from
from data_prep.conversion.region_sheet import (
    MARK_COLOUR,
    PANEL,
    TITLE,
    draw_panel,
    draw_sheet,
    main,
    read_study_regions,
)
from data_prep.phantom import write_cohort
from data_prep.sites import SITES, View
from data_prep.studies.cohorts import split_cohort
from prompts.render import caption
from workspace.layout import DataRoot


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_cohort(tmp_path_factory.mktemp("sheet"), 1, 0, seed=4)
    cohort = split_cohort(DataRoot(root), "train")
    processed = root / "train" / "processed_data"
    convert_cohort(cohort, processed, atlas=learn_from(cohort), caption=caption, folds=2)
    return root


def test_every_cross_lies_at_its_site(root: Path) -> None:
    study = read_study_regions(root / "train" / "processed_data", None)
    assert len(study.pairs) > 40
    for (site, view), pair in study.pairs.items():
        panel = np.asarray(draw_panel(study, site, view))[TITLE:]
        rows, columns = np.nonzero((panel == MARK_COLOUR).all(axis=-1))
        frame = study.frames[pair.series_id, pair.instance_number]
        # The panel's corner is half a pixel before the first pixel's centre.
        mm_a_step = max(np.array(frame.shape) * frame.spacing_mm) / PANEL
        drawn = [
            columns.mean() * mm_a_step / frame.spacing_mm[1] - 0.5,
            rows.mean() * mm_a_step / frame.spacing_mm[0] - 0.5,
        ]
        place = frame.to_patient(drawn)
        off = np.subtract(place, study.positions_mm[site])
        in_plane = off - (off @ frame.normal) * frame.normal
        assert np.linalg.norm(in_plane) < 2 * mm_a_step
        x0, y0, x1, y1 = pair.box
        assert x0 <= drawn[0] <= x1 and y0 <= drawn[1] <= y1


def test_a_site_that_is_not_imaged_has_an_empty_panel(root: Path) -> None:
    study = read_study_regions(root / "train" / "processed_data", None)
    whole = draw_sheet(study)
    study.pairs.clear()
    panel = np.asarray(draw_panel(study, SITES[0], View.AXIAL_T2))
    assert panel[:TITLE].any() and not panel[TITLE:].any()
    assert draw_sheet(study).size == whole.size


def test_the_command_draws_a_study(root: Path, tmp_path: Path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("sys.argv", ["region_sheet", "--root", str(root), "--out", str(tmp_path / "sheet.png")])
    main()
    assert "regions of study" in capsys.readouterr().out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 5 * PANEL and len(sheet.convert("RGB").getcolors(1000)) > 3
    monkeypatch.setattr("sys.argv", ["region_sheet", "--root", str(root), "--study", "7"])
    with pytest.raises(ValueError, match="study 7: it has no regions"):
        main()
