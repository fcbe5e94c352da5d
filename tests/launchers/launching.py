"""Launchers as commands, and what the processes that they start find around them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from interlock.world import LAUNCHERS, SCHEDULERS

PATIENCE_S = 60.0
MODULE = (sys.executable, "-m")
TORCHRUN = (*MODULE, "torch.distributed.run")
_HERE = Path(sys.executable).parent
MPIRUN = (
    str(_HERE / "prterun"),
    "--personality",
    "ompi",
    "--allow-run-as-root",
    "--oversubscribe",
)  # Open MPI's mpirun
HYDRA = (str(_HERE / "mpiexec.hydra"),)
COMMANDS = {  # four ranks of a module, whose name comes next
    "srun": ("srun", "--nodes=2", "--ntasks=4", *MODULE),
    "torchrun": (*TORCHRUN, "--nproc-per-node=4", "-m"),
    "Open MPI": (*MPIRUN, "-n", "4", *MODULE),
    "MPICH": (*HYDRA, "-n", "4", *MODULE),
    "fork": (*MODULE, "launchers.family", "fork", "4"),
    "spawn": (*MODULE, "launchers.family", "spawn", "4"),
}
_TABLES = (*LAUNCHERS, *SCHEDULERS)
_TOLD = {name for row in _TABLES for cell in row if isinstance(cell, str) for name in cell.split()}
_PREFIXES = ("INTERLOCK_", "SLURM", "SBATCH_", "SRUN_", "SQUEUE_", "TORCHELASTIC_", "MASTER_")

Done = subprocess.CompletedProcess[str]


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment without what a launcher or a scheduler has set in it, and with further variables.

    The tests' modules can be imported in it. One thread for each process: all ranks share the cores of this machine.
    """
    kept = {name: text for name, text in os.environ.items() if not name.startswith(_PREFIXES) and name not in _TOLD}
    return kept | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"} | variables


def launch(*commands: tuple[str, ...], **variables: str) -> list[Done]:
    """Run commands at the same time, all to their ends; those that take too long are told to end."""
    with ExitStack() as stack:
        running = [stack.enter_context(_start(command, variables)) for command in commands]
        try:
            said = [process.communicate(timeout=PATIENCE_S) for process in running]
        except BaseException:
            for process in running:
                process.terminate()  # launchers take their ranks with them
            raise
    return [Done(process.args, process.returncode, *texts) for process, texts in zip(running, said, strict=True)]


def _start(command: tuple[str, ...], variables: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        env=clean_environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def absent(name: str) -> str:
    """What to install for a launcher that is not there; an empty text if it is."""
    program = COMMANDS[name][0]
    return "" if shutil.which(program) else f"no {program}: pip install {name.lower().replace(' ', '')}"


def agents(*arguments: str, rendezvous: str = "c10d") -> list[tuple[str, ...]]:
    """Two torchrun agents, as on two nodes, with two ranks each; the arguments are torchrun's and the program's."""
    (port,) = free_ports(1)
    meeting = (f"--rdzv-backend={rendezvous}", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=run7")
    return [
        (*TORCHRUN, "--nnodes=2", "--nproc-per-node=2", f"--node-rank={node}", *meeting, *arguments) for node in (0, 1)
    ]


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
