"""The benchmark of the page: a server is started, asked by several clients at once, and its memory is told."""

import re
from pathlib import Path

import psutil
import pytest

from benchmarks.page import ask, memory_beyond, print_clients, served


def test_clients_are_answered_or_told_to_come_back(evaluated_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with served(str(evaluated_root), "first") as (server, address, started):
        assert started > 0 and ask(address, "severe canal stenosis")[0] == 200
        print_clients(address, 8)
        counts = [int(count) for count in re.findall(r"(\d+) times (?:200|503)", capsys.readouterr().out)]
        assert sum(counts) == 8 * 5
        assert 20 < memory_beyond(server.pid, evaluated_root) < psutil.virtual_memory().total / 1e6
    assert server.poll() is not None


def test_a_server_that_cannot_start_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--serve: failed: .*nobody"), served(str(tmp_path), "nobody"):
        pass
