"""Groups of 1, 2 and 3 processes, started by a test file that runs itself as a script."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import torch

RANKS = [(rank, n_processes) for n_processes in (1, 2, 3) for rank in range(n_processes)]


def run_ranks(run_rank, folder):
    """Start every rank of every group at once; forks, since importing torch takes longer than all they do."""
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=run_rank, args=(*rank, folder)) for rank in RANKS]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0] * len(ranks)


def run_script(script, *arguments):
    """Run a test file as a script, which finds this folder as tests do."""
    command = [sys.executable, script, *map(str, arguments)]
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr


def results_of_ranks(folder):
    """What every rank stored in the folder."""
    return {
        (rank, n_processes): torch.load(folder / f"rank {rank} of {n_processes}.pt", weights_only=True)
        for rank, n_processes in RANKS
    }
