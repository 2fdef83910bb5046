"""workspace/layout.py: names of runs, home folders, and links into the input."""

from pathlib import Path

import pytest

from workspace.layout import DataRoot, data_root, home_expanded


@pytest.mark.parametrize("name", ["", ".", "../../x", "a/b", "a b", "\0"])
def test_a_path_is_refused_as_the_name_of_a_run_and_the_error_names_the_setting(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"^locator .*letters, digits"):
        DataRoot(tmp_path).run(name, "locator")


@pytest.mark.parametrize("letter", ["a", "\u00e9"])
def test_the_name_of_a_run_fits_the_name_of_a_folder(tmp_path: Path, letter: str) -> None:
    with pytest.raises(ValueError, match=r"^run .* at most 200") as caught:
        DataRoot(tmp_path).run(letter * 300)
    assert len(str(caught.value)) < 120
    DataRoot(tmp_path).run("a" * 200).mkdir(parents=True)


def test_the_home_of_an_unknown_user_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^model '~nobody9/x': there is no such home folder"):
        home_expanded("~nobody9/x", "model")
    assert home_expanded("~/x", "model") == Path.home() / "x"


@pytest.mark.parametrize("link", ["train", "train/processed_data", "train/checkpoints"])
@pytest.mark.parametrize("target", ["dataset", "dataset/train_images/new", "elsewhere/images"])
def test_a_link_of_the_output_into_the_input_is_refused(tmp_path: Path, link: str, target: str) -> None:
    """The input's images may themselves be a link to another folder."""
    (tmp_path / "dataset").mkdir()
    (tmp_path / "elsewhere" / "images").mkdir(parents=True)
    (tmp_path / "dataset" / "train_images").symlink_to(tmp_path / "elsewhere" / "images")
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(tmp_path / target)
    root = data_root(str(tmp_path))
    with pytest.raises(ValueError, match="never written to"):
        root.run("a") if "checkpoints" in link else root.processed("train")
    (tmp_path / link).unlink()
    (tmp_path / "disk").mkdir()
    (tmp_path / link).symlink_to(tmp_path / "disk")
    assert root.processed("train") and root.run("a")
