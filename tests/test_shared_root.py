"""Two users of one group prepare, train, resume, evaluate, predict and ask on one data root, with umask 002 and 022."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training_runs import ENVIRONMENT, REPOSITORY
from tests.two_users import COLLEAGUE, GROUP, OWNER, as_user, needs_users

pytestmark = needs_users
RUN = ["--run", "a", "--model", "lumbar-tiny", "--tune", "full", "--report_to", "none", "--held_out_sites", "8"]
RUN += ["--max_train_steps", "1", "--per_device_train_batch_size", "4"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of the group's, beside which each user may write: pytest's own are for one user."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chown(folder, OWNER, GROUP)
        folder.chmod(0o2775)
        yield folder


@pytest.mark.parametrize("umask", [0o002, 0o022])
def test_two_users_work_on_one_root(umask: int, folder: Path) -> None:
    root = folder / "root"

    def said(user: int, script: str, *words: str) -> str:
        """The exit status of a script, and its last line."""
        command = as_user(user, sys.executable, *script.split(), "--root", str(root), *words, umask=umask)
        environment = {**ENVIRONMENT, "HOME": str(folder), "MPLCONFIGDIR": str(folder)}
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
        assert "Traceback" not in done.stderr, done.stderr
        return f"{done.returncode} {(done.stderr if done.returncode else done.stdout).strip().splitlines()[-1]}"

    def outcome_fits(said: str, where: str) -> bool:
        """Whether the colleague did what the umask allows: the work, or one line about the folder."""
        if umask == 0o002:
            return said.startswith("0 ")
        return said.startswith("2 ") and "you may not write into this folder" in said and where in said

    cohort = ["--train", "6", "--test", "1", "--size", "small"]
    assert said(OWNER, "-m data_prep.phantom", *cohort).startswith("0 ")
    prepare = ["prepare_data.py", "--workers", "1", "--folds", "3"]
    assert said(OWNER, *prepare).startswith("0 ")
    assert said(COLLEAGUE, *prepare).endswith("is up to date")
    assert outcome_fits(said(COLLEAGUE, *prepare, "--split", "test", "--seed", "5"), "test/processed_data")

    assert said(OWNER, "train_vl.py", *RUN).startswith("0 ")
    resumed = said(COLLEAGUE, "train_vl.py", *RUN, "--resume_from_checkpoint", "latest")
    assert outcome_fits(resumed, "train/checkpoints/a")
    evaluated = said(OWNER, "eval_vl.py", "--run", "a")
    assert evaluated.startswith("0 "), evaluated
    assert outcome_fits(said(COLLEAGUE, "eval_vl.py", "--run", "a"), "train/checkpoints/a/embeddings")
    images = str(root / "dataset" / "test_images")
    words = ["--run", "a", "--images", images, "--out", str(folder / "out"), "--workers", "1"]
    assert said(COLLEAGUE, "predict_vl.py", *words).startswith("0 ")
    assert said(COLLEAGUE, "query_vl.py", "--run", "a", "severe stenosis").startswith("0 ")

    files = [path for path in root.rglob("*") if path.is_file()]
    assert files and {oct(path.stat().st_mode & 0o777) for path in files} == {oct(0o666 & ~umask)}
    assert {path.stat().st_gid for path in files} == {GROUP}
