"""data_prep/conversion/dataset_card.py: other programs read every column and the images."""

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_prep.conversion.dataset_card import write_dataset_card
from data_prep.conversion.pairs import TRAIN_COLUMNS, Pair, train_row
from data_prep.sites import SITES, Severity, Source, View

COLUMNS = TRAIN_COLUMNS[:-1]


@pytest.fixture(params=["train", "test"])
def processed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of four pairs with their images, below a folder called ``train``; test pairs are unlabelled."""
    folder = tmp_path / "train" / "processed_data"
    train = request.param == "train"
    pairs = [
        Pair(
            study_id=10**12 + number,
            site=SITES[6 * number],
            view=View.AXIAL_T2,
            series_id=7,
            instance_number=number,
            instance_numbers=(number, number, number),
            image=f"images/{10**12 + number}/7/{number}.png",
            box=(0.0, 0.0, 3.0, 3.0),
            text="words, with a comma",
            severity=Severity.SEVERE if train and number else None,
            source=Source.ANNOTATED,
            fold=number if train else None,
            crop=number,
        )
        for number in range(4)
    ]
    for pair in [*pairs, replace(pairs[0], image="images/1000000000000/7/99.png")]:  # an image without a pair
        (folder / pair.image).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), pair.instance_number, dtype=np.uint8)).save(folder / pair.image)
    with (folder / "train_dataset.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(TRAIN_COLUMNS)
        table.writerows(map(train_row, pairs))
    write_dataset_card(folder, request.param, pairs)
    return folder


def table_of(processed: Path) -> list[dict[str, Any]]:
    """Return the table's rows, with numbers as numbers and empty cells as None."""
    with (processed / "train_dataset.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = {"study_id", "series_id", "instance_number", "fold"}
    return [
        {name: (int(row[name]) if name in numbers else row[name]) if row[name] else None for name in COLUMNS}
        for row in rows
    ]


def test_the_datasets_library_reads_every_column_and_the_image(
    processed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)  # paths must not depend on the working directory
    from datasets import load_dataset

    (split,) = load_dataset(str(processed), cache_dir=str(tmp_path / "cache")).values()
    assert split.column_names == [*COLUMNS, "image"]
    assert [{name: row[name] for name in COLUMNS} for row in split] == table_of(processed)
    assert [np.asarray(image)[0, 0] for image in split["image"]] == [0, 1, 2, 3]
    assert split.features["severity"].dtype == "string", "also where nothing is labelled"


def test_the_croissant_description_matches_the_table(processed: Path) -> None:
    croissant = json.loads((processed / "croissant.json").read_text())
    files = {entry["@id"]: entry for entry in croissant["distribution"]}
    table = processed / files["train_dataset.csv"]["contentUrl"]
    assert files["train_dataset.csv"]["sha256"] == hashlib.sha256(table.read_bytes()).hexdigest()
    assert {row["image_path"] for row in table_of(processed)} <= {
        path.relative_to(processed).as_posix() for path in processed.glob(files["images"]["includes"])
    }
    (records,) = croissant["recordSet"]
    assert [field["source"]["extract"]["column"] for field in records["field"]] == list(COLUMNS)


def test_mlcroissant_reads_the_same_rows(processed: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not among the dependencies (docs/log.md)")
    dataset = mlcroissant.Dataset(str(processed / "croissant.json"))
    assert not dataset.metadata.issues.errors

    def plain(value: Any) -> Any:
        return value.decode() if isinstance(value, bytes) else value

    rows = [{name: plain(record[f"pairs/{name}"]) for name in COLUMNS} for record in dataset.records("pairs")]
    assert rows == table_of(processed)
