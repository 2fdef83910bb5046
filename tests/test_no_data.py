"""The repository holds figures of data, and never the data: no table of a cohort, no list of studies, no picture.

If $LUMBAR_REAL_ROOT names a data root of real studies, their identifiers are looked for in every file too.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

from data_prep.studies.tables import read_train_tables

REPOSITORY = Path(__file__).parents[1]
#: Pictures of phantoms. Every other picture has to be looked at before its name is added here.
PICTURES = {"docs/answers.png", "docs/located.png", "docs/page.png", "docs/phantom.png", "docs/regions.png"}
#: Weights of the shipped locator, which learned from synthetic spines.
ARRAYS = {"locator/shipped/locator.safetensors"}
PICTURE_ENDINGS = {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".dcm", ".ima", ".nii"}
ARRAY_ENDINGS = {".npy", ".npz", ".safetensors", ".pt", ".bin", ".parquet", ".arrow", ".zip", ".gz", ".tar"}
#: A number that an identifier of a study or a series may be: the competition's have 7 to 10 digits.
IDENTIFIER = re.compile(r"(?<![\d.])\d{7,10}(?![\d.])")
MOST_IDENTIFIERS = 12
#: Headings of the competition's tables, of submissions, and of the tables that prepare_data.py and eval_vl.py write.
HEADING = re.compile(r"^(row_id|study_id|image_path),", re.MULTILINE)
MOST_ROWS = 30


def files(folder: Path) -> list[Path]:
    """Return the files of the repository; of an unpacked archive without git, all that it came with."""
    if (folder / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=folder, capture_output=True, check=True).stdout.decode()
        return [folder / name for name in listed.split("\0") if name and (folder / name).is_file()]
    made = {"data", "build", "__pycache__"}
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part in made or part[0] == "." for part in path.relative_to(folder).parts)
    ]


def offences(folder: Path, studies: frozenset[str] = frozenset()) -> list[str]:
    """Return what in the files of a folder looks like data; `studies`: identifiers that no file may contain."""
    found = []
    for path in files(folder):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in PICTURE_ENDINGS | ARRAY_ENDINGS:
            if name not in PICTURES | ARRAYS:
                found.append(f"{name}: a picture or an array")
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        numbers = set(IDENTIFIER.findall(text))
        if len(numbers) > MOST_IDENTIFIERS:
            found.append(f"{name}: {len(numbers)} numbers that may be identifiers")
        if HEADING.search(text) and sum(line[:1].isdigit() for line in text.splitlines()) > MOST_ROWS:
            found.append(f"{name}: a table of a cohort")
        if numbers & studies:
            found.append(f"{name}: identifiers of real studies")
    return found


def test_no_file_holds_data_of_studies() -> None:
    root = os.environ.get("LUMBAR_REAL_ROOT")
    studies = read_train_tables(Path(root) / "dataset").severities if root else {}
    assert not offences(REPOSITORY, frozenset(map(str, studies)))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("docs/results/a.txt", "\n".join(f"study {1234567 + 7919 * n}: 0.1" for n in range(20))),
        ("tests/ids.py", f"IDS = {[4_100_000_000 + n for n in range(20)]}"),
        ("ids.json", str([8_000_000 + n for n in range(2000)])),
        ("docs/a.csv", "study_id,series_id,x,y\n" + "\n".join(f"{n},{n},1.0,2.0" for n in range(40))),
        ("submission.csv", "row_id,normal_mild,moderate,severe\n" + "1_left,1,0,0\n" * 40),
        ("docs/mri.PNG", "a picture"),
        ("tests/one.dcm", "a picture"),
        ("crops.npy", "tiles"),
        ("docs/note.md", "as study 7654321 shows"),
    ],
)
def test_data_would_be_found(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    (tmp_path / "clean.md").write_text("394 studies, 2026-11-29, 0.513 (0.479 to 0.548), 10.23 million\n")
    [offence] = offences(tmp_path, frozenset({"7654321"}))
    assert offence.startswith(name)
