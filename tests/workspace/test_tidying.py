"""What cannot be removed is named once, and nothing half removed is left under its name."""

from pathlib import Path

import pytest

from tests.immutable import immutable
from workspace.tidying import discard_file, discard_folder
from workspace.whole_folders import whole_folder


def fill(folder: Path) -> None:
    (folder / "deep").mkdir(parents=True)
    for name in ("state.json", "a", "deep/b"):
        (folder / name).write_text(name)


def test_what_can_be_removed_is_removed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fill(tmp_path / "one")
    fill(tmp_path / "two")
    assert discard_folder(tmp_path / "one") and discard_folder(tmp_path / "two", "state.json")
    assert discard_folder(tmp_path / "two") and discard_file(tmp_path / "no such file")
    assert not list(tmp_path.iterdir()) and not capsys.readouterr().err


@pytest.mark.parametrize("held", ["a", "deep/b", "deep"])
def test_a_folder_without_its_mark_is_not_taken_for_whole(
    held: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    fill(tmp_path / "old")
    with immutable(tmp_path / "old" / held):
        assert discard_folder(tmp_path / "old", "state.json") and discard_folder(tmp_path / "old", "state.json")
        assert not (tmp_path / "old" / "state.json").exists()
        said = capsys.readouterr().err
        assert len(said.splitlines()) <= 2 and said.count(f"{tmp_path / 'old' / held.split('/')[0]}") == 1


@pytest.mark.parametrize("held", ["state.json", "a", "deep/b"])
def test_a_folder_without_a_mark_gives_up_its_name(held: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fill(tmp_path / "old")
    with immutable(tmp_path / "old" / held):
        assert discard_folder(tmp_path / "old") and not (tmp_path / "old").exists()
        assert len(capsys.readouterr().err.splitlines()) == 1
        with whole_folder(tmp_path / "old") as partial:
            fill(partial)


def test_a_folder_that_cannot_be_renamed_stays_whole(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fill(tmp_path / "old")
    with immutable(tmp_path / "old"):
        assert not discard_folder(tmp_path / "old", "state.json") and not discard_folder(tmp_path / "old")
        assert (tmp_path / "old" / "state.json").exists() and (tmp_path / "old" / "deep" / "b").exists()
        assert len(capsys.readouterr().err.splitlines()) == 1
        with pytest.raises(OSError, match="old: cannot be replaced"), whole_folder(tmp_path / "old") as partial:
            fill(partial)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("held", [".new.partial/a", "new/a", ".new.partial"])
def test_a_folder_is_written_beside_what_stays(held: str, tmp_path: Path) -> None:
    fill(tmp_path / ".new.partial")
    fill(tmp_path / "new")
    with immutable(tmp_path / held), whole_folder(tmp_path / "new") as partial:
        (partial / "fresh").write_text("")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["fresh"]


def test_of_many_files_one_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("")
    with immutable(tmp_path / "a"), immutable(tmp_path / "b"):
        assert not discard_file(tmp_path / "a", tmp_path) and not discard_file(tmp_path / "b", tmp_path)
    assert (
        capsys.readouterr().err
        == f"{tmp_path / 'a'}: cannot be removed (Operation not permitted); it is no longer used\n"
    )
