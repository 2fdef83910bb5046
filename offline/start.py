"""Start a bundle: constants first, then its wheels, then the grades.

    python BUNDLE/start.py --data /kaggle/input/COMPETITION --working /kaggle/working --gpus 2 --time_budget 28800

Nothing is needed but Python and pip. Whatever fails from here on, `--working` holds a valid submission.csv.
"""

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

BUNDLE = Path(__file__).resolve().parent
THIRDS = ("0.333333333333", "0.333333333333", "0.333333333334")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the folder of sample_submission.csv and test_images/")
    parser.add_argument("--working", required=True, help="the folder into which submission.csv is written")
    parser.add_argument("--run", help="the run that the bundle should hold; another one is refused")
    settings, others = parser.parse_known_args()
    data, working = Path(settings.data), Path(settings.working)
    if not (data / "test_images").is_dir() and not (data / "sample_submission.csv").is_file():
        print(
            f"start.py: error: --data {str(data)!r}: has neither sample_submission.csv nor test_images/",
            file=sys.stderr,
        )
        return 2
    rows = write_constants(data, working / "submission.csv")
    print(f"{working / 'submission.csv'}: {rows} rows, all of them constants so far", flush=True)
    if not (BUNDLE / "bundle.json").is_file():
        return fail("bundle.json: is missing from the bundle; attach it whole, or make it again")
    card = json.loads((BUNDLE / "bundle.json").read_text(encoding="utf-8"))
    if settings.run not in (None, card["run"]):
        return fail(f"--run {settings.run!r}: this bundle was made for the run {card['run']!r}")
    if problem := what_is_wrong(card):
        return fail(problem)
    wheels = sorted(name for name in card["files"] if name.startswith("wheels/"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    words = [*pip, "--root-user-action=ignore", *(str(BUNDLE / name) for name in wheels)]
    environment = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "HF_HUB_OFFLINE": "1"}
    if subprocess.run(words, env=environment, check=False).returncode:
        return fail("the wheels cannot be installed; pip says why")
    submit = [sys.executable, "-m", "offline.submit", "--bundle", str(BUNDLE), "--data", str(data)]
    return subprocess.run([*submit, "--working", str(working), *others], env=environment, check=False).returncode


def fail(message: str) -> int:
    """Print what is wrong, and that the constants stay; return the exit status."""
    print(f"start.py: error: {message}; submission.csv holds constants", file=sys.stderr, flush=True)
    return 2


def write_constants(data: Path, submission: Path) -> int:
    """Write the best constants for the rows of the sample, or of all studies without one; return their number.

    The file is written by rename. A row that is no site's, which no other file can help either, has one third of each.
    """
    with (BUNDLE / "constants.csv").open(newline="", encoding="utf-8") as file:
        constants = {row[0]: row[1:] for row in csv.reader(file)}
    grades = constants.pop("site")
    if (data / "sample_submission.csv").is_file():
        with (data / "sample_submission.csv").open(newline="", encoding="utf-8-sig") as file:
            row_ids = [row["row_id"] for row in csv.DictReader(file)]
    else:
        studies = sorted(int(path.name) for path in (data / "test_images").iterdir() if path.name.isdigit())
        row_ids = [f"{study}_{site}" for study in studies for site in constants]
    submission.parent.mkdir(parents=True, exist_ok=True)
    partial = submission.with_name(f".{submission.name}.partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["row_id", *grades])
        table.writerows([row_id, *constants.get(row_id.partition("_")[2], THIRDS)] for row_id in row_ids)
    partial.replace(submission)
    return len(row_ids)


def what_is_wrong(card: dict[str, Any]) -> str:
    """Return what keeps this bundle from being used here; "" if nothing does."""
    here, made_for = f"{sys.version_info[0]}.{sys.version_info[1]}", ".".join(card["python"].split(".")[:2])
    if here != made_for:
        return f"this bundle was made for Python {made_for}, and this is {here}; make it again for this image"
    for name, digest in card["files"].items():
        path = BUNDLE / name
        if not path.is_file():
            return f"{name}: is missing from the bundle; attach it whole, or make it again"
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                return f"{name}: is not the file that the bundle was made with; make the bundle again"
    return ""


if __name__ == "__main__":
    raise SystemExit(main())
