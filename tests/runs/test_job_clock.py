"""The end of the Slurm job: believed while it lies ahead, and asked of Slurm when it would end a run."""

import time
from pathlib import Path

import pytest

from runs.job_clock import JobClock, end_of_job, read_job_clock


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that installs a squeue which prints these words and ends with this status."""

    def install(words: str, status: int = 0) -> None:
        program = tmp_path / "squeue"
        program.write_text(f"#!/bin/sh\necho '{words}'\nexit {status}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        monkeypatch.setenv("SLURM_JOB_ID", "7")

    return install


@pytest.mark.parametrize("value", ["1", "1700000000", "three seconds ago"])
def test_an_end_that_lies_back_is_ignored_and_said(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = str(int(time.time()) - 3) if "ago" in value else value
    monkeypatch.setenv("SLURM_JOB_END_TIME", value)
    clock = read_job_clock(120)
    assert clock.end is None and dict(clock.ignored) == {"SLURM_JOB_END_TIME": value}
    assert clock.notes[0].startswith(f"SLURM_JOB_END_TIME={value} lies ") and "it is ignored" in clock.notes[0]


@pytest.mark.parametrize("value", ["soon", "2026-11-28T12:00:00", "-5", "1e9", "²", "9" * 40])
def test_an_end_that_is_no_time_is_ignored_and_said(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", value)
    clock = read_job_clock(120)
    assert clock.end is None and dict(clock.ignored) == {"SLURM_JOB_END_TIME": value}
    assert "should be a number of seconds since 1970" in clock.notes[0]


def test_an_end_that_lies_ahead_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    assert read_job_clock(120) == JobClock()
    end = int(time.time()) + 3600
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(end))
    assert read_job_clock(120) == JobClock(float(end))
    clock = read_job_clock(7200)
    assert clock.end == end and "this start takes one step" in clock.notes[0]


def test_a_job_that_was_extended_is_asked_of_slurm(squeue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) - 60))
    squeue("1-02:03:04")
    clock = read_job_clock(120)
    assert clock.end == pytest.approx(time.time() + 86400 + 2 * 3600 + 3 * 60 + 4, abs=5)
    assert "the Slurm job was extended" in clock.notes[0]


@pytest.mark.parametrize(("words", "status"), [("UNLIMITED", 0), ("", 0), ("INVALID", 0), ("1:00", 1), ("12:00 x", 0)])
def test_a_job_that_slurm_does_not_know_has_no_end(words: str, status: int, squeue) -> None:
    squeue(words, status)
    assert end_of_job() is None


def test_the_time_left_is_read(squeue, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, seconds in (("0:59", 59), ("10:00", 600), ("2:00:00", 7200), ("3-00:00:00", 3 * 86400)):
        squeue(words)
        assert end_of_job() == pytest.approx(time.time() + seconds, abs=5)
    monkeypatch.setenv("SLURM_JOB_ID", "7; rm")
    assert end_of_job() is None
