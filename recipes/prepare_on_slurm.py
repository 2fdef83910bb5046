"""Prepare the data with many Slurm jobs: the jobs are the workers of a Dask cluster, which prepare_data.py uses.

    pip install dask-jobqueue distributed       # or the project's extra `cluster`
    python recipes/prepare_on_slurm.py --root /scratch/$USER/lumbarspine --jobs 16 --partition cpu --account my_project

Run this script on a login node in tmux, or as a small job of its own. It submits jobs while there is work, and cancels
them at the end. The data root, this checkout and the environment must have the same paths on all nodes. If a time limit
or Ctrl-C stops the script, the same command continues the preparation.
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
        print(f"the script of each of up to {settings.jobs} jobs:\n{cluster.job_script()}", flush=True)
        cluster.adapt(minimum_jobs=0, maximum_jobs=settings.jobs)
        prepare = [sys.executable, "prepare_data.py", "--root", settings.root, "--split", settings.split]
        return subprocess.run([*prepare, "--dask_scheduler", cluster.scheduler_address], cwd=CHECKOUT).returncode


def read_settings() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--root", required=True, help="the data root, which must have the same path on all nodes")
    parser.add_argument("--split", choices=["train", "test", "both"], default="both", help="the studies to prepare")
    parser.add_argument("--jobs", type=int, default=8, help="the largest number of Slurm jobs at a time")
    parser.add_argument("--cores", type=int, default=4, help="the number of cores, and of workers, per job")
    parser.add_argument("--memory", default="4GB", help="the memory of a job; 1 GB per worker is enough")
    parser.add_argument(
        "--time",
        default="01:00:00",
        help="the time limit of a job; what it interrupts is converted by another job",
    )
    parser.add_argument("--partition", help="the partition of the jobs, as for sbatch")
    parser.add_argument("--account", help="the account of the jobs, as for sbatch")
    parser.add_argument(
        "--interface", help="the network interface that connects the nodes, such as ib0 (see `ip addr`)"
    )
    return parser


def start_cluster(settings: argparse.Namespace) -> SLURMCluster:
    """Return a cluster: a scheduler in this process, and a description of the jobs, none of which is submitted yet."""
    return SLURMCluster(
        queue=settings.partition,
        account=settings.account,
        cores=settings.cores,
        processes=settings.cores,  # one thread per worker, which reading and compressing keep busy
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
