"""A bundle grades in an empty environment without network as the run does here, whatever ends it or is missing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import zipfile
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from offline import bundle as bundle_command
from offline.wheels import read_image, this_environment
from tests.evaluated_root import run_here

GRADES = ["normal_mild", "moderate", "severe"]
SITE_PACKAGES = Path(sysconfig.get_path("purelib"))


@dataclass(frozen=True)
class Notebook:
    """A machine with an empty environment, and ``/kaggle``-like folders."""

    bundle: Path
    python: Path
    data: Path
    root: Path

    def command(self, working: Path, *arguments: object, bundle: Path | None = None) -> list[str]:
        """Return the words that start a bundle without network."""
        start = (bundle or self.bundle) / "start.py"
        words = [self.python, start, "--data", self.data, "--working", working, *arguments]
        return [*without_network(), *map(str, words)]

    def run(self, working: Path, *arguments: object, bundle: Path | None = None) -> "subprocess.CompletedProcess[str]":
        words = self.command(working, *arguments, bundle=bundle)
        return subprocess.run(
            words, env=environment(working), cwd=self.data, capture_output=True, text=True, check=False
        )

    def valid(self, working: Path) -> pd.DataFrame:
        """Return the rows of a submission, by row id, after a check against the rules of the competition."""
        table = pd.read_csv(working / "submission.csv").set_index("row_id")
        assert list(table.index) == list(pd.read_csv(self.data / "sample_submission.csv")["row_id"])
        assert np.isfinite(table.to_numpy()).all() and table.min().min() >= 1e-4
        assert np.abs(table.sum(axis=1) - 1).max() < 1e-9
        return table

    @property
    def constants(self) -> pd.DataFrame:
        own = pd.read_csv(self.bundle / "constants.csv").set_index("site")
        row_ids = pd.read_csv(self.data / "sample_submission.csv")["row_id"]
        rows = own.loc[[row_id.partition("_")[2] for row_id in row_ids], GRADES]
        return rows.set_index(pd.Index(row_ids))


@cache
def without_network() -> tuple[str, ...]:
    """Return the words before a command that take the network from it, if this system allows for that."""
    words = ("unshare", "--map-root-user", "--net")
    is_possible = shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True, check=False)
    return words if is_possible and is_possible.returncode == 0 else ()


def environment(home: Path) -> dict[str, str]:
    """Return an environment of its own, in which every proxy leads nowhere."""
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    return {"PATH": os.defpath, "HOME": str(home), "OMP_NUM_THREADS": "1", **nowhere}


def link_image(environment: Path) -> None:
    """Link what the image is said to have, at the versions that are installed here, into an empty environment."""
    target = next(environment.glob("lib/python*/site-packages"))
    for name in this_environment(list(read_image(bundle_command.IMAGE))):
        if name != "python":
            tops = {
                file.parts[0] for file in distribution(name).files or () if file.parts[0] not in ("..", "__pycache__")
            }
            for top in tops:
                if (SITE_PACKAGES / top).exists() and not (target / top).exists():
                    (target / top).symlink_to(SITE_PACKAGES / top)


@pytest.fixture(scope="module")
def notebook(evaluated_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Notebook:
    folder = tmp_path_factory.mktemp("kaggle")
    out = folder / "input" / "lumbar-first"
    out.parent.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        words = ["--root", evaluated_root, "--run", "first", "--out", out, "--target", "here"]
        assert run_here(bundle_command, list(map(str, words)), patch) == 0
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "environment"], check=True)
    link_image(folder / "environment")
    data = folder / "input" / "competition"
    data.mkdir()
    for name in ("test_images", "sample_submission.csv", "test_series_descriptions.csv"):
        (data / name).symlink_to(evaluated_root / "dataset" / name)
    return Notebook(out, folder / "environment" / "bin" / "python", data, evaluated_root)


def test_a_bundle_grades_as_the_run_does(notebook: Notebook, tmp_path: Path) -> None:
    """Two processes share the studies, although no GPU that was promised is there."""
    site_packages = next((notebook.python.parents[1]).glob("lib/python*/site-packages"))
    assert not (site_packages / "pydicom").exists() and not (site_packages / "open_clip").exists()
    done = notebook.run(tmp_path, "--gpus", 2, "--processes", 2, "--run", "first")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (site_packages / "pydicom").is_dir() and not (site_packages / "pydicom").is_symlink()
    assert "2 GPUs were promised, and" in done.stdout and "by 2 processes" in done.stdout
    ours = notebook.valid(tmp_path)
    theirs = pd.read_csv(notebook.root / "train" / "logs" / "first" / "submission.csv").set_index("row_id")
    pd.testing.assert_frame_equal(ours, theirs.loc[ours.index], atol=1e-6)
    written = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert written == {"submission.csv", "probabilities.csv", "fallbacks.csv", "faults.csv"}
    assert len(pd.read_csv(tmp_path / "probabilities.csv")) == len(ours)


def test_a_bundle_that_is_killed_at_the_last_study_leaves_a_valid_file(notebook: Notebook, tmp_path: Path) -> None:
    words = notebook.command(tmp_path, "--studies_per_batch", 1)
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(words, env=environment(tmp_path), start_new_session=True, **silent)  # type: ignore[call-overload]
    constants, deadline = notebook.constants, time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (tmp_path / "submission.csv").is_file():
            difference = np.abs(notebook.valid(tmp_path) - constants).max(axis=1)
            if (difference > 1e-3).any():
                break
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    differs = np.abs(notebook.valid(tmp_path) - constants).max(axis=1) > 1e-3
    studies = {row_id.partition("_")[0] for row_id in differs.index[differs]}
    # A busy machine may have graded the second study before it was killed.
    assert studies and len(set(differs.index.str.partition("_").get_level_values(0))) == 2


def test_what_is_missing_is_said_and_constants_are_left(notebook: Notebook, tmp_path: Path) -> None:
    copy = tmp_path / "lumbar-first"
    shutil.copytree(notebook.bundle, copy, copy_function=os.link)

    def refused(*arguments: object) -> str:
        working = tmp_path / "working"
        shutil.rmtree(working, ignore_errors=True)
        done = notebook.run(working, *arguments, bundle=copy)
        assert done.returncode == 2 and done.stderr.strip().endswith("; submission.csv holds constants")
        np.testing.assert_allclose(notebook.valid(working), notebook.constants)
        return done.stderr

    assert "--run 'second': this bundle was made for the run 'first'" in refused("--run", "second")
    card = copy / "bundle.json"
    card.rename(tmp_path / "bundle.json")
    assert "bundle.json: is missing from the bundle" in refused()
    (tmp_path / "bundle.json").rename(card)
    [wheel] = copy.glob("wheels/pydicom-*.whl")
    wheel.unlink()
    assert f"wheels/{wheel.name}: is missing from the bundle" in refused()
    os.link(notebook.bundle / "wheels" / wheel.name, wheel)
    heads = copy / "root" / "train" / "checkpoints" / "first" / "heads" / "heads.json"
    text = heads.read_text()
    heads.unlink()
    heads.write_text(text + " ")
    assert "heads/heads.json: is not the file that the bundle was made with" in refused()


def test_the_notebook_has_three_cells_and_the_archive_all_files(notebook: Notebook) -> None:
    cells = json.loads((notebook.bundle / "submit.ipynb").read_text())["cells"]
    assert len(cells) == 3 and all(cell["cell_type"] == "code" and not cell["outputs"] for cell in cells)
    compile("".join(cells[0]["source"]), "cell", "exec")
    assert "start.py --data {DATA} --working {WORKING}" in "".join(cells[1]["source"])
    files = {
        path.relative_to(notebook.bundle.parent).as_posix() for path in notebook.bundle.rglob("*") if path.is_file()
    }
    with zipfile.ZipFile(notebook.bundle.with_name("lumbar-first.zip")) as archive:
        assert set(archive.namelist()) == files
