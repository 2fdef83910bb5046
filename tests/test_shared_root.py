"""Two users of one group prepare, train, resume, evaluate, predict and ask on one data root, with umask 002 and 022."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training_runs import ENVIRONMENT, REPOSITORY
from tests.two_users import COLLEAGUE, GROUP, OWNER, as_user, group_folder, needs_users

pytestmark = needs_users
RUN = ["--run", "a", "--model", "lumbar-tiny", "--tune", "full", "--report_to", "none", "--held_out_sites", "8"]
RUN += ["--max_train_steps", "1", "--per_device_train_batch_size", "4"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of the group's, beside which each user may write: pytest's own are for one user."""
    with group_folder() as folder:
        yield folder


def test_two_users_work_on_one_root(folder: Path) -> None:
    """First with umask 022, with which the colleague may use a run only, then as the docs tell it, with umask 002."""
    root = folder / "root"

    def said(user: int, umask: int, script: str, *words: str) -> str:
        """The exit status of a script, and its last line."""
        command = as_user(user, sys.executable, *script.split(), "--root", str(root), *words, umask=umask)
        environment = {**ENVIRONMENT, "HOME": str(folder), "MPLCONFIGDIR": str(folder)}
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
        assert "Traceback" not in done.stderr, done.stderr
        return f"{done.returncode} {(done.stderr if done.returncode else done.stdout).strip().splitlines()[-1]}"

    def check_files(*modes: int) -> None:
        files = [path for path in root.rglob("*") if path.is_file()]
        assert {oct(path.stat().st_mode & 0o777) for path in files} <= {oct(mode) for mode in modes}
        assert {path.stat().st_gid for path in files} == {GROUP}

    prepare = ["prepare_data.py", "--workers", "1", "--folds", "3"]
    resume = ["train_vl.py", *RUN, "--resume_from_checkpoint", "latest"]
    cohort = ["--train", "6", "--test", "1", "--size", "small"]
    for command in (["-m data_prep.phantom", *cohort], prepare, ["train_vl.py", *RUN]):
        assert said(OWNER, 0o022, *command).startswith("0 ")
    check_files(0o644)

    assert said(COLLEAGUE, 0o022, *prepare).endswith("is up to date")
    for command, place in (
        ([*prepare, "--split", "test", "--seed", "5"], "test/processed_data"),
        (resume, "train/checkpoints/a"),
        (["eval_vl.py", "--run", "a"], "train/checkpoints/a"),
    ):
        line = said(COLLEAGUE, 0o022, *command)
        assert line.startswith("2 ") and f"{place}: you may not write into this folder" in line

    subprocess.run(["chmod", "-R", "g+rwX", root], check=True)
    subprocess.run(["find", root, "-type", "d", "-exec", "chmod", "g+s", "{}", "+"], check=True)
    evaluate = ["eval_vl.py", "--run", "a"]
    for command in ([*prepare, "--split", "test", "--seed", "5"], resume, evaluate):
        line = said(COLLEAGUE, 0o002, *command)
        assert line.startswith("0 "), line
    words = ["--run", "a", "--images", str(root / "dataset" / "test_images"), "--out", str(folder / "out")]
    assert said(OWNER, 0o002, "predict_vl.py", *words, "--workers", "1").startswith("0 ")
    assert said(OWNER, 0o002, "query_vl.py", "--run", "a", "severe stenosis").startswith("0 ")
    check_files(0o664)
