"""Prepare the data with many Slurm jobs: a Dask cluster of them, and prepare_data.py that gives them work.

    pip install dask-jobqueue distributed       # or the project's extra `cluster`
    python recipes/prepare_on_slurm.py --root /scratch/$USER/lumbarspine --jobs 16 --partition cpu --account my_project

Run it on a login node, in tmux or as a small job of its own: it waits for its workers, whose jobs come and go
with the work, and ends them when it is done. The root, this checkout and the environment must lie on disks that
all nodes see under the same path. When the time limit or Ctrl-C stops it, the same command goes on.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from dask_jobqueue.slurm import SLURMCluster

CHECKOUT = Path(__file__).resolve().parents[1]


def main() -> int:
    settings = read_settings().parse_args()
    with start_cluster(settings) as cluster:
        print(f"each of up to {settings.jobs} jobs:\n{cluster.job_script()}", flush=True)
        cluster.adapt(minimum_jobs=0, maximum_jobs=settings.jobs)
        prepare = [sys.executable, "prepare_data.py", "--root", settings.root, "--split", settings.split]
        return subprocess.run([*prepare, "--dask_scheduler", cluster.scheduler_address], cwd=CHECKOUT).returncode


def read_settings() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--root", required=True, help="folder that holds dataset/, on a disk that all nodes see")
    parser.add_argument("--split", choices=["train", "test", "both"], default="both", help="which studies to prepare")
    parser.add_argument("--jobs", type=int, default=8, help="Slurm jobs at most")
    parser.add_argument("--cores", type=int, default=4, help="of a job; each is one worker")
    parser.add_argument("--memory", default="4GB", help="of a job: 1 GB a worker is plenty")
    parser.add_argument("--time", default="01:00:00", help="a job's limit; work that it cuts short goes to another")
    parser.add_argument("--partition", help="as for sbatch")
    parser.add_argument("--account", help="as for sbatch")
    parser.add_argument("--interface", help="network interface that the nodes share, such as ib0 (see `ip addr`)")
    return parser


def start_cluster(settings: argparse.Namespace) -> SLURMCluster:
    """A scheduler in this process, and the description of the jobs that become its workers; none is submitted yet."""
    return SLURMCluster(
        queue=settings.partition,
        account=settings.account,
        cores=settings.cores,
        processes=settings.cores,  # one thread a worker: reading and compressing keep it busy
        memory=settings.memory,
        walltime=settings.time,
        interface=settings.interface,
        # Workers import data_prep from this checkout, and need one thread each.
        job_script_prologue=[f"cd '{CHECKOUT}'", f"export PYTHONPATH='{CHECKOUT}' OMP_NUM_THREADS=1"],
        scheduler_options={"dashboard_address": ":0"},
        python=sys.executable,
    )


if __name__ == "__main__":
    raise SystemExit(main())
