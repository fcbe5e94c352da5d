"""Ranks and jobs as every launcher and scheduler tells them, from made-up environments."""

import os

import pytest

from interlock.world import LAUNCHERS, SCHEDULERS, Job, World, job, job_node, node_name, world

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "OMPI_COMM_WORLD_NODE_RANK": "3",
}
MVAPICH = {
    "MV2_COMM_WORLD_RANK": "5",
    "MV2_COMM_WORLD_SIZE": "8",
    "MV2_COMM_WORLD_LOCAL_RANK": "1",
    "MV2_COMM_WORLD_LOCAL_SIZE": "4",
}
HYDRA = {"PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"}
CRAY = {"PMI_RANK": "5", "PMI_SIZE": "8", "PMI_LOCAL_RANK": "1", "PMI_LOCAL_SIZE": "4", "PALS_NODEID": "1"}
PMIX = {"PMIX_RANK": "5", "PMIX_SIZE": "8", "PMIX_LOCAL_RANK": "1", "PMIX_LOCAL_SIZE": "4"}
JSRUN = {
    "JSM_NAMESPACE_RANK": "5",
    "JSM_NAMESPACE_SIZE": "8",
    "JSM_NAMESPACE_LOCAL_RANK": "1",
    "JSM_NAMESPACE_LOCAL_SIZE": "4",
}
SRUN = {
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}
STARTED = {
    "torchrun": TORCHRUN,
    "Open MPI": OPEN_MPI,
    "MVAPICH2": MVAPICH,
    "Hydra": HYDRA,
    "Cray": CRAY,
    "PMIx": PMIX,
    "jsrun": JSRUN,
    "srun": SRUN,
}
FIFTH = World(rank=5, size=8, local_rank=1, local_size=4, node=1, scheduler=None, job_id=None)
ALONE = World(rank=0, size=1, local_rank=0, local_size=1, node=0, scheduler=None, job_id=None)
VARIABLES = {cell for row in LAUNCHERS for group in row[:5] for cell in group.split()} | {
    cell for row in SCHEDULERS for group in (row.mark, row.id, row.restart) for cell in group.split()
}


@pytest.mark.parametrize("environ", STARTED.values(), ids=STARTED)
def test_every_launcher_tells_the_same_place(environ):
    """The sixth of eight ranks, second on the second node of four ranks each, is that under every launcher."""
    assert world(environ) == FIFTH


def test_without_a_launcher_there_is_one_rank():
    """An ordinary process is rank 0 of 1."""
    assert world({}) == ALONE


def test_the_environment_of_the_process_is_the_default(monkeypatch):
    """Without an argument, `world` and `job` read what is set now, not what was set at import."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert (world(), job()) == (ALONE, None)
    for name, value in (HYDRA | {"PBS_JOBID": "77.head"}).items():
        monkeypatch.setenv(name, value)
    assert world() == World(5, 8, 1, 4, 1, "pbs", "77.head")
    assert job() == Job("pbs", "77.head")


def test_the_node_of_open_mpi_is_not_its_node_rank():
    """OMPI_COMM_WORLD_NODE_RANK numbers ranks on the node; it changes nothing."""
    assert world(OPEN_MPI | {"OMPI_COMM_WORLD_NODE_RANK": "0"}) == FIFTH


@pytest.mark.parametrize("step", [None, "", "4294967290", "4294967291", "4294967294", "batch"])
def test_a_batch_script_is_no_task(step):
    """SLURM_PROCID=0 outside an srun step, or in a reserved one, does not make rank 0 of the whole job."""
    environ = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    assert world(environ if step is None else environ | {"SLURM_STEP_ID": step}) == ALONE


def test_the_step_not_the_job_gives_the_size():
    """`srun -n 8` inside a job of 64 tasks has 8 ranks; where only the job's number is there, that counts."""
    assert world(SRUN | {"SLURM_NTASKS": "64"}).size == 8
    older = {name: value for name, value in SRUN.items() if name != "SLURM_STEP_NUM_TASKS"}
    assert world(older | {"SLURM_NTASKS": "8"}) == FIFTH


@pytest.mark.parametrize(("node", "expected"), [("0", 5), ("1", 4), ("2", 4), ("3", 4), ("4", 2)])
def test_slurm_lists_its_tasks_per_node(node, expected):
    """The compressed list is read at the node this task runs on."""
    environ = SRUN | {"SLURM_STEP_NUM_TASKS": "19", "SLURM_STEP_TASKS_PER_NODE": "5,4(x3),2", "SLURM_NODEID": node}
    assert world(environ).local_size == expected


@pytest.mark.parametrize("inner", [TORCHRUN, OPEN_MPI, HYDRA], ids=["torchrun", "Open MPI", "Hydra"])
def test_the_daemon_of_a_launcher_is_not_the_rank(inner):
    """A launcher that starts its daemons through srun, one per node, tells the ranks; the Slurm tasks do not."""
    daemon = SRUN | {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"}
    daemon |= {"SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
    assert world(daemon | inner) == FIFTH


def test_what_one_launcher_leaves_open_another_tells():
    """`srun --mpi=pmi2` sets PMI_RANK and PMI_SIZE only; Slurm, which counts the same ranks, knows the place."""
    uneven = SRUN | {"SLURM_STEP_TASKS_PER_NODE": "3,5", "SLURM_LOCALID": "2", "SLURM_NODEID": "1"}
    assert world(uneven | {"PMI_RANK": "5", "PMI_SIZE": "8"}) == World(5, 8, 2, 5, 1, None, None)


def test_another_count_of_ranks_tells_nothing():
    """Where the launchers count different ranks, only the first is believed; its ranks are on one node, as it looks."""
    daemon = SRUN | {"SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_TASKS_PER_NODE": "6", "SLURM_LOCALID": "5"}
    assert world(daemon | {"PMI_RANK": "5", "PMI_SIZE": "8"}) == World(5, 8, 5, 8, 0, None, None)


def test_pmix_under_slurm_needs_no_size():
    """`srun --mpi=pmix` sets PMIX_RANK without a size; Slurm tells both."""
    assert world(SRUN | {"PMIX_RANK": "5"}) == FIFTH


def test_a_rank_without_a_size_is_an_error():
    """Every rank would otherwise take itself for the only one."""
    with pytest.raises(ValueError, match=r"PMIX_RANK.*PMIX_SIZE"):
        world({"PMIX_RANK": "5"})


def test_a_variable_called_rank_is_not_a_launcher():
    """RANK alone may mean anything; torchrun sets WORLD_SIZE too."""
    assert world({"RANK": "gold"}) == ALONE


MALFORMED = [
    (environ, name)
    for environ in STARTED.values()
    for name in environ
    if name not in ("SLURM_STEP_ID", "OMPI_COMM_WORLD_NODE_RANK")
]


@pytest.mark.parametrize("text", ["four", "-1", "1.0", "1_0", " 1", "\u0663", "9" * 19, "4(x", "1,,2"], ids=ascii)
@pytest.mark.parametrize(("environ", "name"), MALFORMED, ids=[name for _, name in MALFORMED])
def test_a_malformed_number_is_named(environ, name, text):
    """A number that is none is an error that names its variable, whichever it is."""
    with pytest.raises(ValueError, match=name):
        world(environ | {name: text})


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"RANK": "8"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE"),
        ({"LOCAL_RANK": "4"}, "LOCAL_RANK"),
        ({"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE"),
    ],
)
def test_an_impossible_place_is_an_error(wrong, named):
    """A rank is below its size, in the job and on the node."""
    with pytest.raises(ValueError, match=named):
        world(TORCHRUN | wrong)


JOBS = {
    "Slurm job 812": ({"SLURM_JOB_ID": "812"}, Job("slurm", "812")),
    "Slurm job 812_3": (
        {
            "SLURM_JOB_ID": "815",
            "SLURM_ARRAY_JOB_ID": "812",
            "SLURM_ARRAY_TASK_ID": "3",
            "SLURM_RESTART_COUNT": "2",
            "SLURM_CLUSTER_NAME": "alps",
        },
        Job("slurm", "812", 3, 2, "alps"),
    ),
    "Slurm job 812_0": (
        {"SLURM_JOB_ID": "812", "SLURM_ARRAY_JOB_ID": "812", "SLURM_ARRAY_TASK_ID": "0"},
        Job("slurm", "812", 0),
    ),
    "LSF job 99": ({"LSB_JOBID": "99", "LSB_JOBINDEX": "0"}, Job("lsf", "99")),
    "LSF job 99[7]": ({"LSB_JOBID": "99", "LSB_JOBINDEX": "7"}, Job("lsf", "99", 7)),
    "PBS job 12[4].head": ({"PBS_JOBID": "12[4].head", "PBS_ARRAY_INDEX": "4"}, Job("pbs", "12[4].head", 4)),
    "PBS job 12-4.head": ({"PBS_JOBID": "12-4.head", "PBS_ARRAYID": "4"}, Job("pbs", "12-4.head", 4)),
    "SGE job 31": ({"JOB_ID": "31", "SGE_TASK_ID": "undefined", "RESTARTED": "0"}, Job("sge", "31")),
    "SGE job 31.2": ({"JOB_ID": "31", "SGE_TASK_ID": "2", "RESTARTED": "1"}, Job("sge", "31", 2, 1)),
    "Kubernetes pod train-0": (
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "train-0"},
        Job("kubernetes", "train-0"),
    ),
    "Kubernetes pod train-1": (
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "train-1", "POD_NAMESPACE": "lab"},
        Job("kubernetes", "train-1", cluster="lab"),
    ),
    "torchrun run r1": (
        {"TORCHELASTIC_RUN_ID": "r1", "TORCHELASTIC_RESTART_COUNT": "1"},
        Job("torchrun", "r1", None, 1),
    ),
}


@pytest.mark.parametrize(("words", "environ", "expected"), [(words, *told) for words, told in JOBS.items()], ids=JOBS)
def test_every_scheduler_names_its_job(words, environ, expected):
    """The job, its array index, its restarts and its cluster are read, and written as the scheduler's users do."""
    assert job(environ) == expected
    assert str(job(environ)) == words
    assert (world(environ).scheduler, world(environ).job_id) == (expected.scheduler, expected.id)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"JOB_ID": "31"},
        {"SGE_TASK_ID": "1"},
        {"HOSTNAME": "node7"},
        {"SLURM_JOB_ID": ""},
        {"TORCHELASTIC_RUN_ID": "none"},
    ],
    ids=str,
)
def test_no_job(environ):
    """Half of a scheduler's variables, an empty one, or torchrun's word for no run id make no job."""
    assert job(environ) is None


def test_a_job_inside_another_is_the_scheduler_s():
    """torchrun in a pod or in a Slurm job: the job is the one that a scheduler can be asked about."""
    inner = {"TORCHELASTIC_RUN_ID": "r1"}
    assert job(inner | JOBS["Kubernetes pod train-0"][0]) == Job("kubernetes", "train-0")
    assert job(inner | JOBS["Slurm job 812"][0]) == Job("slurm", "812")


@pytest.mark.parametrize("name", ["SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT"])
def test_a_malformed_job_number_is_named(name):
    """An array index or a restart count that is no number is an error that names its variable."""
    with pytest.raises(ValueError, match=name):
        job({"SLURM_JOB_ID": "812", name: "three"})


def test_an_unknown_scheduler_can_still_be_named():
    """A job read back from a later version is described, not refused."""
    assert str(Job("moab", "5", 1)) == "moab job 5"


def test_a_scheduler_names_its_nodes():
    """A node's name for the scheduler need not be the host's; outside a job, and on a login node, there is none."""
    on_node = {"SLURM_JOB_ID": "812", "SLURMD_NODENAME": "n7"}
    assert (job_node(on_node), node_name(on_node)) == ("n7", "n7")
    for elsewhere in ({"SLURM_JOB_ID": "812"}, {"SLURMD_NODENAME": "n7"}, {"LSB_JOBID": "99"}, {}):
        assert (job_node(elsewhere), node_name(elsewhere)) == ("", os.uname().nodename)
