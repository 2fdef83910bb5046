"""Descriptions of ``processed_data`` for other programs: ``README.md`` for `datasets`, and ``croissant.json``.

Both describe ``train_dataset.csv``, a row of which is one site of one study in one view, with its image.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.conversion.pairs import TRAIN_COLUMNS, Pair
from workspace.whole_files import ESCAPED, replacing

NAME = "lumbar-spine-pairs"
SUMMARY = "Lumbar-spine MRI: each row is one site of one study in one view, with the PNG that shows it."
#: Columns of integers. Outside the train split `fold` is empty, which requires floats.
INTEGERS = {"study_id", "series_id", "instance_number", "fold"}
IMAGE_COLUMN = TRAIN_COLUMNS[-1]

CARD = """\
---
license: other
task_categories:
- zero-shot-image-classification
configs:
- config_name: default
  drop_labels: true
  metadata_filenames:
  - train_dataset.csv
  features:
{features}
  data_files:
  - split: {split}
    path:
    - train_dataset.csv
    - images/{study_id}/*/*.png
---
# Lumbar-spine MRI: image-text pairs

Each row of `train_dataset.csv` is one site of one study in one view, with the PNG that shows it.
`datasets.load_dataset` on this folder returns the rows with their images. The images listed above
only make it load an image data set: the rows themselves name every file. `croissant.json` contains
the same description in the Croissant format.
"""

#: The terms of Croissant 1.0 that are used here.
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "recordSet": "cr:recordSet",
    "field": "cr:field",
    "source": "cr:source",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "includes": "cr:includes",
    "extract": "cr:extract",
    "column": "cr:column",
}


def write_dataset_card(processed: Path, split: str, pairs: Sequence[Pair]) -> None:
    """Write README.md and croissant.json.

    Without README.md, `datasets.load_dataset` would find either the images or the columns, but not both.

    Args:
        processed: The folder, in which ``train_dataset.csv`` must exist.
        split: The split of the data.
        pairs: Some of the pairs: the card lists the images of their first study.
    """
    types = {name: "string" for name in TRAIN_COLUMNS if name != IMAGE_COLUMN}
    types |= dict.fromkeys(INTEGERS, "int64") | {"image": "image"}
    if split != "train":
        types["fold"] = "float64"
    features = "\n".join(f"  - name: {name}\n    dtype: {dtype}" for name, dtype in types.items())
    card = CARD.format(features=features, split=split, study_id=pairs[0].study_id if pairs else "*")
    with replacing(processed / "README.md") as partial:
        partial.write_text(card, encoding="utf-8", errors=ESCAPED)
    with replacing(processed / "croissant.json") as partial:
        partial.write_text(json.dumps(_croissant(processed, split), indent=1) + "\n", encoding="utf-8")


def _croissant(processed: Path, split: str) -> dict[str, Any]:
    """Return the description in JSON-LD (https://docs.mlcommons.org/croissant/docs/croissant-spec.html)."""
    with (processed / "train_dataset.csv").open("rb") as table:
        digest = hashlib.file_digest(table, "sha256").hexdigest()
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": f"{NAME}-{split}",
        "description": SUMMARY,
        "license": "other",
        "url": ".",
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "train_dataset.csv",
                "name": "train_dataset.csv",
                "contentUrl": "train_dataset.csv",
                "encodingFormat": "text/csv",
                "sha256": digest,
            },
            {
                "@type": "cr:FileSet",
                "@id": "images",
                "name": "images",
                "description": "The PNGs of the column image_path.",
                "encodingFormat": "image/png",
                "includes": "images/*/*/*.png",
            },
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "pairs",
                "name": "pairs",
                "field": [_field(name, split) for name in TRAIN_COLUMNS if name != IMAGE_COLUMN],
            }
        ],
    }


def _field(name: str, split: str) -> dict[str, Any]:
    empty = name == "fold" and split != "train"
    return {
        "@type": "cr:Field",
        "@id": f"pairs/{name}",
        "name": name,
        "dataType": "sc:Float" if empty else "sc:Integer" if name in INTEGERS else "sc:Text",
        "source": {"fileObject": {"@id": "train_dataset.csv"}, "extract": {"column": name}},
    }
