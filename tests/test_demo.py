"""demo/run.sh: its commands start, and its files exist. The scripts have their own tests."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]


def test_the_summary_starts_as_the_demo_starts_it() -> None:
    [summary] = re.findall(r"^python (.*summary\S*)", (PROJECT / "demo" / "run.sh").read_text(), re.MULTILINE)
    command = [sys.executable, *summary.split(), "--help"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--steps" in done.stdout, done.stderr


def test_the_summary_has_a_row_of_the_plain_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    from demo.summary import print_table

    parts = ("score", "spinal", "foraminal", "subarticular", "any_severe")
    block = dict.fromkeys(parts, 0.4) | {
        "interval": {"score": [0.3, 0.5]},
        "ratio_to_constant": {"score": {"value": 0.5, "interval": [0.4, 0.6]}},
    }
    difference = {part: {"value": 0.1, "interval": [0.02, 0.2]} for part in parts}
    metric = {"metric_optimal": block}
    calibration = {"calibrated": {"ece": 0.012, "ece_floor": {"mean": 0.009}}}
    heads = ("zero_shot", "linear_probe")
    report = {
        "head": "zero_shot",
        "n": {"studies": 4, "rows": 90},
        "constant_baseline": block,
        "metric": dict.fromkeys(heads, metric),
        "calibration": dict.fromkeys(heads, calibration),
        "by_rule": dict.fromkeys(heads, block),
        "comparison": {"heads": {head: {"difference": difference} for head in heads}},
        "plain_baseline": {
            "metric": metric,
            "calibration": calibration,
            "heads_minus_baseline": dict.fromkeys(heads, difference),
        },
    }
    print_table({"base": report, "lora": report})
    printed = capsys.readouterr().out
    assert "| plain baseline, without a network | 0.400 (0.300 to 0.500) | 0.50 (0.40 to 0.60) |" in printed
    assert "| prompt head, base | 0.400 (0.300 to 0.500) | 0.50 (0.40 to 0.60) |" in printed
    assert "| 0.012 (0.009) |" in printed and "| prompt head, base, no calibration: label-free | 0.400" in printed
    assert "LoRA minus baseline, paired by study: prompt head +0.100 (+0.020 to +0.200); linear probe +0.100" in printed
    assert "The prompt head loses to the plain baseline in the whole score by 0.100" in printed


def test_every_script_and_recipe_of_the_demo_exists() -> None:
    story = (PROJECT / "demo" / "run.sh").read_text()
    files = re.findall(r"(?:python |--config |--config_file |=)([\w/]+\.(?:py|yaml))\b", story)
    assert len(files) > 5
    for file in files:
        assert (PROJECT / file).is_file(), file
