"""A damaged JSON file that one command wrote for another is reported in one line that quotes the file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.conversion.crops import open_crops
from data_prep.conversion.pairs import read_dataset
from data_prep.placement.atlas import load_atlas
from runs.run_record import read_run_record
from vl_model.evaluation.embeddings import read_embeddings, read_text_embeddings
from vl_model.evaluation.grader import read_grader
from vl_model.queries.index import load_segment
from workspace.json_files import read_object

DAMAGED = {
    "empty": b"",
    "half": b'{"schema_version": 1, "fing',
    "binary": bytes(range(256)) * 1000,
    "nested": b"[" * 100_000,
    "list": b"[]",
    "null": b"null",
    "number": b"3",
    "no version": b"{}",
    "other version": b'{"schema_version": 99, "metadata": {"schema_version": 99}}',
    "version only": b'{"schema_version": 1, "metadata": {"schema_version": 1}}',
    "nulls": b'{"schema_version": 1, "metadata": {"schema_version": 1}, "pairs": null, "fingerprint": null}',
    "lists": b'{"schema_version": 1, "metadata": {"schema_version": 1, "folds": [], "study_ids": []}, '
    b'"pairs": [[]], "sites": [], "fingerprint": [1], "grid_mm": 1}',
}
READERS: dict[str, Callable[[Path], object]] = {
    "dataset.json": read_dataset,
    "crops.json": open_crops,
    "atlas.json": lambda folder: load_atlas(folder / "atlas.json"),
    "embeddings.json": lambda folder: read_embeddings(folder, {}),
    "text.json": lambda folder: read_text_embeddings(folder, {}),
    "heads.json": read_grader,
    "index.json": lambda folder: load_segment(folder, {}),
    "run.json": read_run_record,
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_one_line(tmp_path: Path, name: str, damage: str) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / name).write_bytes(DAMAGED[damage])
    with pytest.raises(ValueError, match=r"\S") as raised:
        READERS[name](tmp_path)
    message = str(raised.value)
    assert str(tmp_path) in message and "\n" not in message and len(message) < len(str(tmp_path)) + 300


@pytest.mark.parametrize("name", READERS)
def test_a_folder_instead_of_a_file_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=f"{name}: cannot be read"):
        READERS[name](tmp_path)


def test_an_object_is_read_and_its_version_checked(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"schema_version": 2, "a": "\N{GREEK SMALL LETTER ALPHA}"}', encoding="utf-8")
    assert read_object(path, "someone", 2) == {"schema_version": 2, "a": "\N{GREEK SMALL LETTER ALPHA}"}
    with pytest.raises(ValueError, match=r"version 2, expected 3; run someone again"):
        read_object(path, "someone", 3)
    with pytest.raises(ValueError, match=r"no such file; someone writes it"):
        read_object(tmp_path / "y.json", "someone")
