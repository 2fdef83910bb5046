"""demo/run.sh: its commands start, and its files exist. The scripts have their own tests."""

import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


def test_the_summary_starts_as_the_demo_starts_it() -> None:
    [summary] = re.findall(r"^python (.*summary\S*)", (PROJECT / "demo" / "run.sh").read_text(), re.MULTILINE)
    command = [sys.executable, *summary.split(), "--help"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--steps" in done.stdout, done.stderr


def test_every_script_and_recipe_of_the_demo_exists() -> None:
    story = (PROJECT / "demo" / "run.sh").read_text()
    files = re.findall(r"(?:python |--config |--config_file |=)([\w/]+\.(?:py|yaml))\b", story)
    assert len(files) > 5
    for file in files:
        assert (PROJECT / file).is_file(), file
