"""data_prep/conversion/convert.py: a small cohort of real files is converted to the same bytes in every way."""

import csv
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.pixels import get_decoder
from pydicom.uid import UID, JPEGLSLossless, RLELossless

from data_prep.conversion import convert as convert_module
from data_prep.conversion import study_conversion
from data_prep.conversion.convert import (
    convert_cohort,
    input_key,
    learn_from,
    read_inputs,
    summary_if_current,
)
from data_prep.conversion.crops import open_crops
from data_prep.conversion.executors import open_pool
from data_prep.conversion.folder_batches import convert_in_batches
from data_prep.conversion.merge import Summary
from data_prep.conversion.pairs import TRAIN_COLUMNS, read_dataset, read_metadata
from data_prep.conversion.work_folder import parts_folder
from data_prep.dicom.decoders import find_decoder
from data_prep.dicom.pixels import read_image
from data_prep.faults import Fault
from data_prep.phantom import write_cohort
from data_prep.placement.atlas import load_atlas
from data_prep.placement.placer import Placer
from data_prep.series.windows import series_window, to_grey
from data_prep.sites import SITES, Severity, Site, Source
from data_prep.studies.cohorts import Cohort, folder_cohort, split_cohort
from data_prep.studies.studies import Study, StudyFolder
from tests.dicom_files import frame, write_slice
from workspace.layout import DataRoot

JPEG_LS_PLUGINS = [
    ("gdcm", ("pydicom.pixels.decoders.gdcm", "_decode_frame")),
    ("pyjpegls", ("pydicom.pixels.decoders.pyjpegls", "_decode_frame")),
]


def caption(site: Site, severity: Severity | None) -> str:
    return site.words if severity is None else f"{site.words}: {severity.key}"


def convert(cohort: Cohort, processed: Path, workers: int = 1) -> Summary:
    with open_pool(workers) as pool:
        return convert_cohort(cohort, processed, atlas=None, learn=True, caption=caption, folds=2, pool=pool, key="k")


def convert_folder(images: Path, processed: Path, placer: Placer) -> set[str]:
    """Convert new studies, and return the kinds of their faults."""
    batches = convert_in_batches(
        folder_cohort(images, None), processed, placer=placer, caption=caption, studies_per_batch=3
    )
    assert [study for batch in batches for study in batch.study_ids] == list(read_dataset(processed).study_ids)
    return {row["kind"] for row in rows(processed / "faults.csv")}


def content(processed: Path) -> dict[str, bytes]:
    return {
        path.relative_to(processed).as_posix(): path.read_bytes() for path in processed.rglob("*") if path.is_file()
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> DataRoot:
    return DataRoot(write_cohort(tmp_path_factory.mktemp("convert"), train=3, test=1, seed=11))


@pytest.fixture(scope="module")
def cohort(root: DataRoot) -> Cohort:
    return split_cohort(root, "train")


@pytest.fixture(scope="module")
def processed(root: DataRoot) -> Path:
    convert(split_cohort(root, "train"), root.processed("train"))
    return root.processed("train")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_all_files_are_written_and_no_partial_ones_remain(processed: Path) -> None:
    names = {name for name in content(processed) if not name.startswith("images/")}
    tables = {"slices.csv", "sites.csv", "faults.csv", "train_dataset.csv"}
    assert names == tables | {"dataset.json", "crops.npy", "crops.json", "atlas.json", "README.md", "croissant.json"}


def test_every_image_is_its_series_windowed(root: DataRoot, processed: Path) -> None:
    slices = rows(processed / "slices.csv")
    assert len(slices) == sum(1 for _ in root.images("train").rglob("*.dcm"))
    first = [row for row in slices if row["series_id"] == slices[0]["series_id"]]
    folder = root.images("train") / first[0]["study_id"] / first[0]["series_id"]
    pixels = {path.stem: read_image(path) for path in folder.glob("*.dcm")}
    window = series_window(list(pixels.values()))
    for row in first:
        image = np.asarray(Image.open(processed / row["image"]))
        np.testing.assert_array_equal(image, to_grey(pixels[row["instance_number"]], window))
        assert (int(row["rows"]), int(row["columns"])) == image.shape
        assert (float(row["window_low"]), float(row["window_high"])) == window


def test_pairs_crops_and_tables_agree(processed: Path) -> None:
    dataset, crops = read_dataset(processed), open_crops(processed)
    assert [pair.crop for pair in dataset.pairs] == list(range(len(crops)))
    places = {
        (row["study_id"], row["condition"], row["side"], row["level"]): row for row in rows(processed / "sites.csv")
    }
    table = rows(processed / "train_dataset.csv")
    assert tuple(table[0]) == TRAIN_COLUMNS and len(table) == len(dataset.pairs)
    for pair, row in zip(dataset.pairs, table, strict=True):
        assert (processed / pair.image).is_file() and row["image_path"] == pair.image
        assert pair.view in pair.site.views and pair.text == caption(pair.site, pair.severity)
        key = (str(pair.study_id), pair.site.condition.value, pair.site.side or "", pair.site.level.value)
        place = places[key]
        assert place["source"] == pair.source
        certainty = [place["expected_error_mm"], place["level_confidence"]]
        if pair.source == "annotated":
            assert certainty == ["", ""]
        else:
            assert float(certainty[0]) > 0 and 0 < float(certainty[1]) <= 1
        x0, y0, x1, y1 = pair.box
        assert x0 < x1 and y0 < y1
    by_study = {pair.study_id: pair.fold for pair in dataset.pairs}
    assert all(by_study[pair.study_id] == pair.fold for pair in dataset.pairs) and set(by_study.values()) <= {0, 1}
    assert {pair.source for pair in dataset.pairs} <= {Source.ANNOTATED, Source.ATLAS}
    assert dataset.metadata["counts"]["pairs"] == len(dataset.pairs)
    assert all(crop.any() for crop in crops)


def test_the_bytes_do_not_depend_on_the_number_of_workers(root: DataRoot, processed: Path, tmp_path: Path) -> None:
    convert(split_cohort(root, "train"), tmp_path / "two", workers=2)
    assert content(tmp_path / "two") == content(processed)


@pytest.mark.parametrize("stop", [2, 3, 4, 5])
def test_an_interrupted_conversion_is_resumed(
    root: DataRoot, processed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    read, calls = study_conversion.read_study, []

    def read_and_stop(*arguments):  # type: ignore[no-untyped-def]
        calls.append(arguments)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return read(*arguments)

    for module in (convert_module, study_conversion):
        monkeypatch.setattr(module, "read_study", read_and_stop)
    with pytest.raises(KeyboardInterrupt):
        convert(split_cohort(root, "train"), tmp_path / "again")
    assert not (tmp_path / "again" / "dataset.json").exists()
    convert(split_cohort(root, "train"), tmp_path / "again")
    # Three studies for the atlas, one of them marked throughout, and the other two again. An atlas is learned at once,
    # so an interruption on the way to it costs what was read.
    assert len(calls) == (stop + 5 if stop <= 3 else 6)
    assert content(tmp_path / "again") == content(processed)


def test_a_study_that_is_marked_throughout_is_read_once(
    root: DataRoot, processed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = split_cohort(root, "train")
    read, calls = study_conversion.read_study, Counter[int]()

    def counted(folder: StudyFolder, max_pixels: int) -> tuple[Study, list[Fault]]:
        calls[folder.study_id] += 1
        return read(folder, max_pixels)

    for module in (convert_module, study_conversion):
        monkeypatch.setattr(module, "read_study", counted)
    convert(cohort, tmp_path / "once")
    throughout = {folder.study_id: len({mark.site for mark in folder.marks}) == len(SITES) for folder in cohort.folders}
    assert calls == {study_id: 1 if alone else 2 for study_id, alone in throughout.items()}
    assert True in throughout.values() and False in throughout.values()
    # The same as with an atlas that was learned before, which is what a test split gets.
    atlas = load_atlas(tmp_path / "once" / "atlas.json")
    convert_cohort(cohort, tmp_path / "two", atlas=atlas, caption=caption, folds=2, key="k")
    assert content(tmp_path / "two") == content(tmp_path / "once") == content(processed)


def test_a_second_run_recognises_its_input(root: DataRoot, processed: Path) -> None:
    cohort = split_cohort(root, "train")
    inputs, again = read_inputs(cohort), read_inputs(cohort)
    assert input_key(cohort, inputs, {"seed": 0}, None, caption) == input_key(cohort, again, {"seed": 0}, None, caption)
    assert input_key(cohort, inputs, {"seed": 0}, None, caption) != input_key(
        cohort, inputs, {"seed": 1}, None, caption
    )
    assert summary_if_current(processed, "other") is None and summary_if_current(processed / "none", "k") is None
    found = summary_if_current(processed, "k")
    assert found is not None and found.up_to_date and found.studies == 3


def test_metadata_can_be_read_alone(processed: Path, tmp_path: Path) -> None:
    assert read_metadata(processed) == read_dataset(processed).metadata
    whole = (processed / "dataset.json").read_bytes()
    for damaged in (whole[:-1], whole[: len(whole) // 2], b"", b"[]\n]}\n", whole.replace(b": 1,", b": 99,", 1)):
        (tmp_path / "dataset.json").write_bytes(damaged)
        with pytest.raises(ValueError, match="run prepare_data"):
            read_metadata(tmp_path)


def test_new_studies_need_only_their_folder(root: DataRoot, processed: Path, tmp_path: Path) -> None:
    atlas = learn_from(split_cohort(root, "train"))
    assert atlas is not None
    images = root.images("test")
    assert convert_folder(images, tmp_path / "new", atlas) == {"view_guessed"}
    dataset = read_dataset(tmp_path / "new")
    assert len(dataset.study_ids) == 1
    assert {pair.source for pair in dataset.pairs} == {Source.ATLAS}
    assert all(pair.fold is None and pair.severity is None for pair in dataset.pairs)
    study = next(images.iterdir())
    convert_folder(study, tmp_path / "one", atlas)
    assert read_dataset(tmp_path / "one").pairs == dataset.pairs


def test_without_a_readable_image_new_studies_are_written_and_training_studies_refused(
    cohort: Cohort, tmp_path: Path
) -> None:
    bad = tmp_path / "images" / "1" / "2" / "3.dcm"
    bad.parent.mkdir(parents=True)
    bad.write_bytes(b"junk")
    atlas = learn_from(cohort)
    assert atlas is not None
    convert_folder(tmp_path / "images", tmp_path / "out", atlas)
    dataset = read_dataset(tmp_path / "out")
    assert dataset.study_ids == (1,)
    assert dataset.pairs == ()
    assert len(open_crops(tmp_path / "out")) == 0

    atlas.save(tmp_path / "out" / "atlas.json")
    convert_cohort(folder_cohort(tmp_path / "images", None), tmp_path / "out", atlas=None, caption=caption)
    assert not (tmp_path / "out" / "atlas.json").exists(), "an earlier conversion's atlas"

    training = replace(folder_cohort(tmp_path / "images", None), split="train")
    with pytest.raises(ValueError, match="none of 1 studies has a readable image"):
        convert_cohort(training, tmp_path / "train", atlas=None, caption=caption)
    assert list(content(tmp_path / "train")) == ["faults.csv"]
    assert {"not_dicom", "empty_folder"} <= {row["kind"] for row in rows(tmp_path / "train" / "faults.csv")}


def test_the_datasets_library_reads_images_with_all_columns(
    processed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)  # paths must not depend on the working directory
    from datasets import load_dataset

    loaded = load_dataset(str(processed), cache_dir=str(tmp_path / "cache"))["train"]
    assert set(loaded.column_names) >= {*TRAIN_COLUMNS[:-1], "image"}
    table = rows(processed / "train_dataset.csv")
    assert loaded["image_path"][:] == [row["image_path"] for row in table]
    assert loaded["severity"][:] == [row["severity"] or None for row in table]
    expected = np.asarray(Image.open(processed / table[5]["image_path"]))
    np.testing.assert_array_equal(np.asarray(loaded[5]["image"]), expected)


def test_no_name_or_date_reaches_an_output(cohort: Cohort, tmp_path: Path) -> None:
    """This includes files that become faults. The names are in the files that are read."""
    series, pixels = tmp_path / "images" / "1" / "2", np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    elements = {"StudyDate": "20010203", "InstitutionName": "Secret House", "PatientID": "Secret-7"}
    for number, more in enumerate(({}, {"PixelSpacing": None}, {"Rows": 9999}, {"SamplesPerPixel": 3}), start=1):
        write_slice(series / f"{number}.dcm", pixels, frame((4 * number, 0, 0)), **elements, **more)
    assert all(b"Secret^Name" in path.read_bytes() for path in series.iterdir())
    atlas = learn_from(cohort)
    assert atlas is not None
    faults = convert_folder(tmp_path / "images", tmp_path / "out", atlas)
    assert {"no_geometry", "truncated", "not_grey"} <= faults and len(rows(tmp_path / "out" / "slices.csv")) == 2
    for name, written in content(tmp_path / "out").items():
        for secret in (b"Secret", b"19700102", b"20010203"):
            assert secret not in written, name


@pytest.fixture
def without_jpeg_ls() -> Iterator[Callable[[], None]]:
    """Hide the decoders of JPEG-LS; the yielded function makes them available again."""
    decoder = get_decoder(JPEGLSLossless)
    find_decoder.cache_clear()
    for name, _ in JPEG_LS_PLUGINS:
        decoder.remove_plugin(name)

    def install() -> None:
        decoder.add_plugins([(name, path) for name, path in JPEG_LS_PLUGINS if name not in decoder.available_plugins])

    yield install
    install()


@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless])
def test_a_missing_decoder_that_is_installed_later_is_used(
    cohort: Cohort, tmp_path: Path, without_jpeg_ls: Callable[[], None], syntax: UID
) -> None:
    series, pixels = tmp_path / "images" / "1" / "2", np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    write_slice(series / "1.dcm", pixels, frame((4, 0, 0)))
    whole = write_slice(tmp_path / "whole.dcm", pixels, frame((8, 0, 0)), syntax=RLELossless).read_bytes()
    (series / "2.dcm").write_bytes(whole.replace(RLELossless.encode() + b"\0", syntax.encode().ljust(20, b"\0"), 1))
    new = folder_cohort(tmp_path / "images", None)
    out = tmp_path / "out"
    summary = convert_cohort(new, out, atlas=None, caption=caption, key="k")
    missing = syntax == JPEGLSLossless
    assert ("no_decoder" in summary.faults) == missing and summary.slices == 2 - missing
    assert summary_if_current(out, "k") is not None

    study = read_inputs(new)[0]
    parts_folder(out).mkdir()
    study_conversion.convert_study(study, out, None, 10_000)
    assert study_conversion.find_converted(study, out, None, 10_000) is not None
    without_jpeg_ls()
    assert (study_conversion.find_converted(study, out, None, 10_000) is None) == missing
    assert (summary_if_current(out, "k") is None) == missing
