"""The benchmarks run, on little: what they print is for people to read."""

from pathlib import Path

import pytest

from benchmarks import prepare


def test_preparation_is_compared_with_the_plain_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare.compare_with_plain(tmp_path, slices=2, turns=1)  # asserts that pixels are the reference's
    lines = [line for line in capsys.readouterr().out.splitlines() if "sigma 15" in line]
    sizes = [line for line in lines if "against zlib" in line]
    assert len([line for line in lines if "times as many" in line]) == 2
    assert len(sizes) == 2 and all(line.endswith("ok") for line in sizes)


def test_scaling_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare.measure_scaling(tmp_path, studies=2, turns=1)
    assert "two against one, by CPU time" in capsys.readouterr().out
