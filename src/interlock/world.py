"""Where this process stands among the ranks of its launcher, and which job of a scheduler it belongs to.

Why it exists: every launcher and every scheduler says so in variables of its own; here they are two tables. Only the
environment is read, so the answer is there before MPI or torch is up, and without them.

1. The first launcher in the table that started this process tells its rank and size. torchrun and the `mpirun`s come
   before Slurm, because they start their daemons through `srun`: the Slurm task is then the daemon, not the rank.
2. What it leaves open (a local rank under `srun --mpi=pmi2`, say) is taken from a later one with the same rank and
   size.
3. What nobody tells is as if equal nodes had been filled in order; without any local size, as on a single node.
4. What is told but cannot be is a `ValueError` that names the variable: ranks are never guessed.

Layer: a bottom one; it imports nothing of ours.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

Environment = Mapping[str, str]


class World(NamedTuple):
    """One rank's place: 0 <= `rank` < `size` in the job, 0 <= `local_rank` < `local_size` on its node."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    node: int
    scheduler: str | None
    job_id: str | None


class Job(NamedTuple):
    """A scheduler's job: `id` and `array_index` name it in its `cluster`; `restart` counts its requeues."""

    scheduler: str
    id: str
    array_index: int | None = None
    restart: int = 0
    cluster: str = ""

    def __str__(self) -> str:
        for row in SCHEDULERS:
            if row.name == self.scheduler:
                form = "{}" if self.array_index is None else row.form
                return f"{row.title} {form.format(self.id, self.array_index)}"
        return f"{self.scheduler} job {self.id}"


class Launcher(NamedTuple):
    """The variables of one launcher; where a cell names several, the first that is set counts.

    It started this process if its `rank` is set and `condition` holds. All variables of `run` together tell one run
    from every other.
    """

    rank: str
    size: str
    local_rank: str
    local_size: str
    node: str = ""
    run: str = ""
    condition: Callable[[Environment], bool] = lambda environ: True


def _sized(environ: Environment) -> bool:
    """A variable called RANK alone may be anybody's."""
    return bool(environ.get("WORLD_SIZE"))


def _in_step(environ: Environment) -> bool:
    """A batch script and the shell of salloc have rank 0 too, but no step, or one with a reserved number."""
    step = environ.get("SLURM_STEP_ID", "")
    return step.isdecimal() and int(step) < 0xFFFF_FFF0


TORCHRUN = Launcher(
    rank="RANK",
    size="WORLD_SIZE",
    local_rank="LOCAL_RANK",
    local_size="LOCAL_WORLD_SIZE",
    node="GROUP_RANK",
    run="TORCHELASTIC_RUN_ID MASTER_ADDR MASTER_PORT",
    condition=_sized,
)
OPEN_MPI = Launcher(  # OMPI_COMM_WORLD_NODE_RANK is not the node: it is a rank on the node, among all jobs
    rank="OMPI_COMM_WORLD_RANK",
    size="OMPI_COMM_WORLD_SIZE",
    local_rank="OMPI_COMM_WORLD_LOCAL_RANK",
    local_size="OMPI_COMM_WORLD_LOCAL_SIZE",
    run="PMIX_NAMESPACE OMPI_MCA_ess_base_jobid",
)
MVAPICH = Launcher(
    rank="MV2_COMM_WORLD_RANK",
    size="MV2_COMM_WORLD_SIZE",
    local_rank="MV2_COMM_WORLD_LOCAL_RANK",
    local_size="MV2_COMM_WORLD_LOCAL_SIZE",
)
PMI = Launcher(  # MPICH, Intel MPI, Cray MPICH
    rank="PMI_RANK",
    size="PMI_SIZE",
    local_rank="MPI_LOCALRANKID PMI_LOCAL_RANK",
    local_size="MPI_LOCALNRANKS PMI_LOCAL_SIZE",
    node="PALS_NODEID",
)
JSRUN = Launcher(
    rank="JSM_NAMESPACE_RANK",
    size="JSM_NAMESPACE_SIZE",
    local_rank="JSM_NAMESPACE_LOCAL_RANK",
    local_size="JSM_NAMESPACE_LOCAL_SIZE",
    run="PMIX_NAMESPACE JSM_NAMESPACE_ID",
)
SRUN = Launcher(
    rank="SLURM_PROCID",
    size="SLURM_STEP_NUM_TASKS SLURM_NTASKS",
    local_rank="SLURM_LOCALID",
    local_size="SLURM_STEP_TASKS_PER_NODE",
    node="SLURM_NODEID",
    run="SLURM_JOB_ID SLURM_STEP_ID SLURM_RESTART_COUNT",
    condition=_in_step,
)
PMIX = Launcher(
    rank="PMIX_RANK",
    size="PMIX_SIZE",
    local_rank="PMIX_LOCAL_RANK",
    local_size="PMIX_LOCAL_SIZE",
    run="PMIX_NAMESPACE",
)
LAUNCHERS = (TORCHRUN, OPEN_MPI, MVAPICH, PMI, JSRUN, SRUN, PMIX)


class Scheduler(NamedTuple):
    """The variables of one scheduler, and how people write its jobs.

    A job is recognised by its `id` and by `mark`, a variable nobody else sets. `single` is what the array index says
    outside an array.
    """

    name: str
    title: str
    form: str
    mark: str
    id: str
    array_index: str = ""
    single: str = ""
    restart: str = ""
    cluster: str = ""
    node: str = ""


SCHEDULERS = (
    Scheduler(
        *("slurm", "Slurm job", "{}_{}"),
        mark="SLURM_JOB_ID",
        id="SLURM_ARRAY_JOB_ID SLURM_JOB_ID",
        array_index="SLURM_ARRAY_TASK_ID",
        restart="SLURM_RESTART_COUNT",
        cluster="SLURM_CLUSTER_NAME",
        node="SLURMD_NODENAME",
    ),
    Scheduler("lsf", "LSF job", "{}[{}]", mark="LSB_JOBID", id="LSB_JOBID", array_index="LSB_JOBINDEX", single="0"),
    Scheduler("pbs", "PBS job", "{}", mark="PBS_JOBID", id="PBS_JOBID", array_index="PBS_ARRAY_INDEX PBS_ARRAYID"),
    Scheduler(
        *("sge", "SGE job", "{}.{}"),
        mark="SGE_TASK_ID",
        id="JOB_ID",
        array_index="SGE_TASK_ID",
        single="undefined",
        restart="RESTARTED",
        cluster="SGE_CLUSTER_NAME",
    ),
    Scheduler(
        *("kubernetes", "Kubernetes pod", "{}"),
        mark="KUBERNETES_SERVICE_HOST",
        id="HOSTNAME",
        cluster="POD_NAMESPACE",
    ),
    Scheduler(
        *("torchrun", "torchrun run", "{}"),
        mark="TORCHELASTIC_RUN_ID",
        id="TORCHELASTIC_RUN_ID",
        restart="TORCHELASTIC_RESTART_COUNT",
    ),
)


def world(environ: Environment | None = None) -> World:
    """This process's place among the ranks of its launcher; rank 0 of 1 where no launcher started it.

    Where the launcher numbers no nodes, `node` supposes equal nodes filled in order: to name the machine itself, use
    the host or the boot id of `Holder`.

    Args:    environ: the environment to read; None reads `os.environ`.
    Raises:  ValueError: a variable is not a number, a size is missing, or a rank is not below its size.
    """
    environ = os.environ if environ is None else environ
    told = job(environ)
    names = (told.scheduler, told.id) if told else (None, None)
    rows = [row for row in LAUNCHERS if environ.get(row.rank) and row.condition(environ)]
    if not rows:
        return World(0, 1, 0, 1, 0, *names)
    rank, size = _standing(environ, rows[0])
    if rank is None or size is None:
        raise ValueError(f"{rows[0].rank} is set, but the number of ranks is not: {rows[0].size}")
    if rank >= size:
        raise ValueError(f"{rows[0].rank}={rank} cannot be with {size} ranks: {rows[0].size}")
    agreeing = [row for row in rows if _standing(environ, row) == (rank, size)]
    return World(rank, size, *_place(environ, agreeing, rank, size), *names)


def place(rank: int | None, size: int | None) -> tuple[int, int]:
    """Rank and size, what is not given being the launcher's; a rank beyond that size stands in a larger one.

    Raises: ValueError: there is no such rank in that size, or a variable is malformed.
    """
    if rank is None or size is None:
        found = world()
        rank = (found.rank if size is None else 0) if rank is None else rank
        size = found.size if size is None else size
        if rank >= size and size == found.size:
            size = rank + 1
    if not 0 <= rank < size:
        raise ValueError(f"rank is from 0 to size - 1, not rank {rank!r} of {size!r}")
    return rank, size


def node_name(environ: Environment | None = None) -> str:
    """A text that the ranks of one node share and those of others do not: the launcher's number of the node, else the
    scheduler's name of it, else the host's; the machine's boot id does not do where one machine plays several nodes."""
    environ = os.environ if environ is None else environ
    for row in LAUNCHERS:
        if environ.get(row.rank) and row.condition(environ) and (told := _first(environ, row.node)[1]):
            return f"node{told}"
    return job_node(environ) or os.uname().nodename


def run_name(environ: Environment | None = None) -> str | None:
    """A text that all ranks of this run share and no other run has, $INTERLOCK_RUN before all others; None where the
    launcher does not tell its runs apart. A job's requeue is another run; a restart of its ranks by torchrun is not."""
    environ = os.environ if environ is None else environ
    if environ.get("INTERLOCK_RUN"):
        return environ["INTERLOCK_RUN"]
    for row in LAUNCHERS:
        if environ.get(row.rank) and row.condition(environ):
            told = [environ.get(name, "") for name in row.run.split()]
            return " ".join(told) if any(told) and told[0] != "none" else None  # "none": torchrun was given no run id
    return None


def job(environ: Environment | None = None) -> Job | None:
    """The scheduler's job this process belongs to; None outside one.

    Args:    environ: the environment to read; None reads `os.environ`.
    Raises:  ValueError: an array index or a restart count is not a number.
    """
    environ = os.environ if environ is None else environ
    for row in SCHEDULERS:
        _, job_id = _first(environ, row.id)
        if not environ.get(row.mark) or job_id in ("", "none"):  # "none": torchrun was given no run id
            continue
        outside = _first(environ, row.array_index)[1] == row.single
        index = None if outside else _number(environ, row.array_index)
        return Job(row.name, job_id, index, _number(environ, row.restart) or 0, _first(environ, row.cluster)[1])
    return None


def job_node(environ: Environment | None = None) -> str:
    """The scheduler's name of the node this process runs on; empty outside a job, on a login node where a shell in an
    allocation may run, and where a node has no name but its host's."""
    environ = os.environ if environ is None else environ
    return next((_first(environ, row.node)[1] for row in SCHEDULERS if environ.get(row.mark)), "")


def _standing(environ: Environment, row: Launcher) -> tuple[int | None, int | None]:
    return _number(environ, row.rank), _number(environ, row.size)


def _place(environ: Environment, rows: list[Launcher], rank: int, size: int) -> tuple[int, int, int]:
    """Local rank, local size and node, each from the first row that tells it."""
    node = next((n for row in rows if (n := _number(environ, row.node)) is not None), None)
    local_size = next((n for row in rows if (n := _share(environ, row.local_size, node or 0)) is not None), size)
    local_rank = next((n for row in rows if (n := _number(environ, row.local_rank)) is not None), None)
    if local_rank is None:
        local_rank = rank % max(local_size, 1)
    if local_rank >= local_size:
        cells = " ".join(f"{row.local_rank} {row.local_size}" for row in rows)
        raise ValueError(f"local rank {local_rank} cannot be with {local_size} ranks on the node: see {cells}")
    return local_rank, local_size, rank // local_size if node is None else node


def _first(environ: Environment, cell: str) -> tuple[str, str]:
    """Name and text of the first variable of a cell that is set and not empty."""
    return next(((name, environ[name]) for name in cell.split() if environ.get(name)), ("", ""))


def _number(environ: Environment, cell: str) -> int | None:
    """The number a cell tells, if it tells one."""
    name, text = _first(environ, cell)
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError(f"{name}={text!r} is not a whole number")
    return int(text)


def _share(environ: Environment, cell: str, node: int) -> int | None:
    """A count per node: one number for every node, or Slurm's list of them, as in ``4(x2),3``."""
    name, text = _first(environ, cell)
    if not text:
        return None
    count = 0
    for part in text.split(","):
        found = re.fullmatch(r"([0-9]{1,18})(?:\(x([0-9]{1,18})\))?", part)
        if found is None:
            raise ValueError(f"{name}={text!r} is not a number of ranks per node")
        if node >= 0:
            count = int(found[1])
        node -= int(found[2] or 1)
    return count
