"""Files that are written completely or not at all."""

from pathlib import Path

import pytest

from workspace.whole_files import replacing


def test_a_file_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    with replacing(path) as partial:
        partial.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"
    with pytest.raises(RuntimeError), replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "first" and [found.name for found in path.parent.iterdir()] == ["a.txt"]
