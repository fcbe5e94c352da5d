"""`interlock run` in a job that its scheduler has started anew, and the scheduler's word on others."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import interlock
from cli.command import HOLD, Command, let_go
from interlock import clearing, inspection, schedulers
from interlock.abc import Liveness
from interlock.cli import run as runs
from interlock.holder import Holder, Life
from interlock.world import Job
from patience import until

LINE = "held by this job before it was requeued"


@pytest.fixture
def start(file_url: str) -> Iterator[object]:
    """Starts ``interlock run`` as a Slurm job, of some id and restart."""
    jobs: list[Command] = []

    def start_job(restart: int, *args: str, job: str = "812", task: str = "") -> subprocess.Popen[str]:
        command = Command(file_url)
        command.environment |= {"SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": str(restart)}
        if task:
            command.environment |= {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": task}
        jobs.append(command)
        return command.start("run", "job", *args)

    yield start_job
    for job in jobs:
        job.end()


def ready(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """The process, when the command of `HOLD` runs in it."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()
    return process


@pytest.mark.parametrize("options", [("--if-held", "skip"), ("--if-held", "fail"), ("--timeout", "0"), ()])
def test_a_requeued_job_waits_for_its_earlier_run(start, options: tuple[str, ...], tmp_path: Path) -> None:
    """It is not refused what its own earlier run holds, says so, and runs as soon as that is proved to have ended."""
    file = ("--pidfile", str(tmp_path / ".training_lock"))
    earlier = ready(start(0, *file, *HOLD))
    again = start(1, *file, *options, "--", "echo", "it ran")
    if options:
        assert again.stderr is not None
        assert LINE in again.stderr.readline()
    earlier.kill()
    out, said = again.communicate(timeout=60)
    assert (again.returncode, out) == (0, "it ran\n")
    assert "died" in said


@pytest.mark.parametrize(
    ("held", "asks"),
    [
        ({"restart": 0, "job": "811"}, {"restart": 1}),
        ({"restart": 1}, {"restart": 1}),
        ({"restart": 2}, {"restart": 1}),
        ({"restart": 0, "task": "3"}, {"restart": 1, "task": "4"}),
    ],
)
def test_only_the_same_job_earlier_is_waited_for(start, held: dict[str, str], asks: dict[str, str]) -> None:
    """Another job, another task of the array, the same run and a later one keep a job out as anybody does."""
    holder = ready(start(held.pop("restart"), *HOLD, **held))
    refused = start(asks.pop("restart"), "--if-held", "skip", "--", "echo", "it ran", **asks)
    out, said = refused.communicate(timeout=60)
    assert (refused.returncode, out) == (75, "")
    assert LINE not in said
    assert let_go(holder)[0] == 0


def test_who_came_first_is_served_first(start, file_url: str) -> None:
    """A requeued job that waited behind others does as it was told when one of them has the name now."""
    store = interlock.stores.open_store(file_url)
    earlier = ready(start(0, *HOLD))
    other = start(0, *HOLD, job="900")
    until(lambda: inspection.look(store, "job").waiters)
    again = start(1, "--if-held", "skip", "--", "echo", "it ran")
    until(lambda: len(inspection.look(store, "job").waiters) == 2)
    earlier.kill()
    ready(other)
    out, said = again.communicate(timeout=60)
    assert (again.returncode, out) == (75, "")
    assert "Slurm job 900" in said
    assert let_go(other)[0] == 0


# -- the scheduler's word


def somewhere(job: str | None = "812") -> Holder:
    """A participant on a host that nobody here can look at."""
    return Holder("node7", 4711, scheduler=job and "slurm", job_id=job)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (Life("dead", "Slurm job 812 ended"), ("dead", "Slurm job 812 ended")),
        (Life("alive", "Slurm job 812 runs"), ("alive", "Slurm job 812 runs")),
        (Life("unknown", "no answer"), ("unknown", "out of sight; no answer")),
        (None, ("unknown", "out of sight")),
    ],
)
def test_the_scheduler_is_asked_where_a_store_has_no_proof(
    monkeypatch: pytest.MonkeyPatch, told: Life | None, expected: tuple[str, str]
) -> None:
    """Its word counts, with its proof; where it has none either, both say why."""
    monkeypatch.setattr(schedulers, "life", lambda holder: told)
    assert inspection.informed(Liveness("unknown", "out of sight", somewhere()))[:2] == expected


@pytest.mark.parametrize(
    "life",
    [
        Liveness("alive", "its lock is held", somewhere()),
        Liveness("dead", "its lock is free", somewhere()),
        Liveness("unknown", "out of sight", somewhere(job=None)),
        Liveness("unknown", "out of sight"),
    ],
)
def test_a_stores_proof_needs_no_scheduler(monkeypatch: pytest.MonkeyPatch, life: Liveness) -> None:
    """Nobody is asked about whom a store has proved anything, or who is in no job."""
    monkeypatch.setattr(schedulers, "life", lambda holder: pytest.fail("it was asked"))
    assert inspection.informed(life) == life


@pytest.fixture
def far(session: interlock.Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[interlock.Session]:
    """A participant that holds a name and whom, as if it were far away, only its scheduler can prove dead."""
    held = interlock.connect(session.url)
    held.lock("job").acquire()
    store = session.store
    alive = type(store).alive

    def judged(self: object, who: str) -> Liveness:
        return Liveness("unknown", "out of sight", somewhere()) if who == held.id else alive(self, who)

    monkeypatch.setattr(type(store), "alive", judged)
    yield held
    monkeypatch.undo()
    held.close()


@pytest.mark.parametrize("request_", [{"if_held": "skip"}, {"timeout": 0.05}, {}])
def test_a_run_takes_over_from_a_job_that_has_ended(
    far: interlock.Session, monkeypatch: pytest.MonkeyPatch, request_: dict[str, object]
) -> None:
    """Whoever only the scheduler can prove dead keeps nobody out, however short a run is ready to wait."""
    monkeypatch.setattr(runs, "_leave_on_termination", lambda: None)
    monkeypatch.setattr(schedulers, "life", lambda holder: Life("dead", "Slurm job 812 ended FAILED"))
    assert runs.run(runs.Request("job", ("true",), url=far.url, **request_)) == 0


def test_a_run_is_refused_while_nobody_can_tell(
    far: interlock.Session, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """If the scheduler does not answer, the name stays held, and whoever is refused reads both reasons."""
    monkeypatch.setattr(runs, "_leave_on_termination", lambda: None)
    monkeypatch.setattr(schedulers, "life", lambda holder: Life("unknown", "squeue did not answer"))
    assert runs.run(runs.Request("job", ("true",), url=far.url, if_held="skip")) == 75
    assert "out of sight; squeue did not answer" in capsys.readouterr().err


def test_looking_and_clearing_take_the_schedulers_word(far: interlock.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder whose job has ended is stale to `look` and `survey`, and `plan` clears it; asked once in each."""
    asked: list[Job | None] = []
    monkeypatch.setattr(
        schedulers, "life", lambda holder: asked.append(holder.job) or Life("dead", "Slurm job 812 ended FAILED")
    )
    assert inspection.look(far.store, "job").state == "stale"
    assert [status.state for status in inspection.survey(far.store)] == ["stale"]
    (step,) = (step for step in clearing.plan(far.store) if step.action == "evict")
    assert (step.status, step.why) == ("STALE", "Slurm job 812 ended FAILED")
    assert asked == [Job("slurm", "812")] * 3
    assert clearing.perform(far.store, step)
    assert inspection.look(far.store, "job").state == "free"
