"""`interlock run` in jobs of a real scheduler: arrays, deaths of every kind, requeues and time limits."""

from __future__ import annotations

import os
import shlex
import signal
from collections import defaultdict

import interlock
from interlock import completion
from interlock.stores import open_store
from launchers.attempt import FATES
from launchers.journal import Journal
from launchers.launching import MODULE
from launchers.slurm import Slurm
from patience import until

TASKS = 100
CONFIGURATIONS = 20


def run(url: str, *options: str) -> str:
    """The beginning of ``interlock run``, as a shell script has it."""
    return shlex.join((*MODULE, "interlock", "run", "--url", url, *options))


def attempt(journal: Journal) -> str:
    """The beginning of an attempt at training."""
    return shlex.join((*MODULE, "launchers.attempt", str(journal.path)))


def hurry(slurm: Slurm, job: str) -> None:
    """Let a requeued job begin again without the two minutes that Slurm would wait by itself."""
    until(lambda: slurm.states(job) == {"PENDING"})
    slurm.ask("scontrol", "update", f"jobid={job}", "starttime=now+1")


def test_an_array_trains_each_configuration_once(slurm: Slurm, journal: Journal, shared: str) -> None:
    """Of 100 tasks over 20 configurations, two of each at a time, some killed, requeued or cancelled, exactly one for
    each configuration finishes it, and never are two at work on the same."""
    fates = " ".join(f"{number}) fate={fate};;" for number, fate in enumerate(FATES))
    job = slurm.sbatch(
        f"""
        number=$((SLURM_ARRAY_TASK_ID / 2 % {CONFIGURATIONS})) fate=
        case $number in {fates} esac
        exec {run(shared, "--skip-if-done", "--if-held", "skip")} --key number=$number --key ratio=0.50 -- \\
            {attempt(journal)} $number $fate
        """,
        f"--array=0-{TASKS - 1}",
    )
    requeued = [*FATES].index("requeued")
    until(lambda: requeued in [entry["configuration"] for entry in journal.read("is struck")])
    (task,) = (entry["job"][2] for entry in journal.read("is struck") if entry["configuration"] == requeued)
    hurry(slurm, f"{job}_{task}")
    slurm.wait(job)

    course = defaultdict(list)
    for entry in journal.read():
        course[entry["configuration"]].append(entry["event"])
    struck, whole = ["begins", "is struck"], ["begins", "finishes"]
    expected = {number: (struck if number < len(FATES) else []) + whole for number in range(CONFIGURATIONS)}
    assert course == expected, slurm.output(job)
    for entry in journal.read("finishes"):
        done = completion.find(open_store(shared), interlock.key(number=entry["configuration"], ratio=0.5))
        assert done is not None
        assert (done.exit_code, list(done.holder.job or ())) == (0, entry["job"])


def test_a_requeued_job_enters_its_own_lock_again(slurm: Slurm, journal: Journal, shared: str) -> None:
    """What an earlier run of a job left on its node keeps the job out until it is proved dead, and refuses it never."""
    escaped = f"(setsid {run(shared, 'model')} -- {attempt(journal)} 0 requeued &) ; sleep 1000"
    again = f"exec {run(shared, 'model', '--if-held', 'fail')} -- {attempt(journal)} 0"
    job = slurm.sbatch(f'if [ -z "$SLURM_RESTART_COUNT" ]; then {escaped}; fi; {again}')
    until(lambda: bool(journal.read("is struck")))
    hurry(slurm, job)
    until(lambda: "held by this job before it was requeued" in slurm.output(job))
    assert [entry["event"] for entry in journal.read()] == ["begins", "is struck"]
    os.kill(journal.read("begins")[0]["pid"], signal.SIGKILL)
    assert slurm.wait(job) == {"COMPLETED"}, slurm.output(job)
    assert [entry["job"][3] for entry in journal.read("begins")] == [0, 1]
    assert len(journal.read("finishes")) == 1


def test_a_command_is_stopped_before_the_time_limit(slurm: Slurm, shared: str) -> None:
    """With `--grace` the command gets SIGTERM before the limit and its exit code counts; a limit that was raised
    meanwhile does not stop it, and without `--grace` nothing does."""

    def train(name: str, *options: str) -> str:
        loop = "trap 'echo saved; exit 9' TERM; echo started; while :; do sleep 0.1; done"
        return slurm.sbatch(f"exec {run(shared, name, *options)} -- sh -c {shlex.quote(loop)}", "--time=1")

    raised, free = train("raised", "--grace", "55"), train("free")
    stopped = train("stopped", "--grace", "53")  # its time to stop comes two seconds after that of the one above
    until(lambda: slurm.output(raised) == slurm.output(free) == "started\n")
    slurm.ask("scontrol", "update", f"jobid={raised}", "timelimit=10")
    assert slurm.wait(stopped) == {"FAILED"}
    assert "ExitCode=9:0" in slurm.ask("scontrol", "show", "job", stopped)
    assert "this job's time limit comes in" in slurm.output(stopped)
    assert slurm.output(stopped).endswith("saved\n")
    with interlock.connect(shared) as session:
        assert not session.lock("stopped").acquire(0).recovered
    for job in (raised, free):
        assert (slurm.states(job), slurm.output(job)) == ({"RUNNING"}, "started\n")
