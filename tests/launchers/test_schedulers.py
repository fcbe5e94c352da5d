"""What a real Slurm proves about holders that real jobs have told of: each state, each way to end, each silence."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from interlock import schedulers
from interlock.holder import Holder, Life
from interlock.schedulers import _command
from launchers.launching import PATIENCE_S
from launchers.slurm import Slurm
from patience import until

TELL = "from interlock import Holder; print(Holder.here().to_json(), flush=True)"
HOLDER = f"{shlex.quote(sys.executable)} -c {shlex.quote(TELL)}"
HOLD = f"{HOLDER}; sleep 1000"

Ask = Callable[[Holder], Life]


@pytest.fixture
def ask(slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Asks the cluster, without remembering what it has said before."""
    for name, text in slurm.variables.items():
        monkeypatch.setenv(name, text)

    def life(holder: Holder) -> Life:
        schedulers._remembered.clear()
        _command._resting.clear()
        verdict = schedulers.life(holder)
        assert verdict is not None
        return verdict

    return life


def holders(slurm: Slurm, job: str, count: int = 1) -> list[Holder]:
    """The holders that a job and its restarts have told of, once there are as many."""

    def told() -> list[str]:
        return re.findall(r"\{[^{}]*\}", slurm.output(job))  # two tasks may have written on one line

    until(lambda: len(told()) >= count, situation=lambda: f"{slurm.output(job)}{slurm.said()}")
    return [Holder.from_json(line) for line in told()]


def test_a_job_that_runs_is_alive(slurm: Slurm, ask: Ask) -> None:
    """While the job runs, while it is suspended, and when it goes on, its holder is alive."""
    job = slurm.sbatch(HOLD, "--nodelist=n2")
    (holder,) = holders(slurm, job)
    assert (holder.node, holder.cluster) == ("n2", "interlock")
    assert ask(holder).state == "alive"
    assert ask(holder).proof.endswith(" runs")
    slurm.ask("scontrol", "suspend", job)
    assert ask(holder).state == "alive"
    assert ask(holder).proof.endswith(" is suspended")
    slurm.ask("scontrol", "resume", job)
    assert ask(holder).state == "alive"


def test_the_time_limit_is_told(slurm: Slurm, ask: Ask) -> None:
    """A job of ten minutes ends ten minutes after it began, by the wall clock; one that nobody knows ends never."""
    (holder,) = holders(slurm, slurm.sbatch(HOLD, "--time=10"))
    ends = schedulers.ends_at(holder.job)
    assert ends is not None
    assert 600 - PATIENCE_S < ends - holder.since <= 600
    assert schedulers.ends_at(holder.job._replace(id="99999")) is None


def test_a_job_that_has_ended_is_dead(slurm: Slurm, ask: Ask) -> None:
    """Its holder is dead, however the job has ended; the proof names the job, its end and both times."""
    scripts = {"COMPLETED": HOLDER, "FAILED": f"{HOLDER}; exit 3", "CANCELLED": HOLD}
    jobs = {state: slurm.sbatch(script) for state, script in scripts.items()}
    for state, job in jobs.items():
        (holder,) = holders(slurm, job)
        if state == "CANCELLED":
            slurm.ask("scancel", job)
        assert slurm.wait(job) == {state}
        verdict = ask(holder)
        assert verdict.state == "dead"
        assert verdict.proof.startswith(f"Slurm job {job} of ")
        assert f" ended {state} at " in verdict.proof


@pytest.mark.slow
def test_a_job_that_has_timed_out_is_dead(slurm: Slurm, ask: Ask) -> None:
    """The shortest limit that Slurm knows is a minute, and it looks at limits every half minute."""
    job = slurm.sbatch(HOLD, "--time=1")
    (holder,) = holders(slurm, job)
    assert slurm.wait(job, 150) == {"TIMEOUT"}
    assert ask(holder).state == "dead"


def test_an_older_run_of_a_requeued_job_is_dead(slurm: Slurm, ask: Ask) -> None:
    """Not while its processes are being ended, but once they are; the new run's holder is alive."""
    job = slurm.sbatch(HOLD, "--nodelist=n2")
    (first,) = holders(slurm, job)
    with slurm.silent("slurmd-n2"):  # whose processes go on until it hears that they are to be ended
        slurm.ask("scontrol", "requeue", job)
        until(lambda: slurm.states(job) == {"COMPLETING"})
        assert ask(first).state == "alive"
        assert "is ending" in ask(first).proof
    until(lambda: slurm.states(job) == {"PENDING"} and "completing" not in slurm.nodes().values())
    assert ask(first).state == "dead"
    assert "was requeued" in ask(first).proof
    slurm.ask("scontrol", "update", f"jobid={job}", "starttime=now+1")
    again = holders(slurm, job, 2)[1]
    assert (first.restart, again.restart) == (0, 1)
    assert (ask(first).state, ask(again).state) == ("dead", "alive")


def test_a_drained_node_still_runs_its_jobs(slurm: Slurm, ask: Ask) -> None:
    """Drained means that no new jobs are started there; what ends there is seen to end."""
    job = slurm.sbatch(HOLD, "--nodelist=n2")
    (holder,) = holders(slurm, job)
    slurm.ask("scontrol", "update", "nodename=n2", "state=drain", "reason=a test")
    assert ask(holder).state == "alive"
    slurm.ask("scancel", job)
    slurm.wait(job)
    assert ask(holder).state == "dead"


@pytest.mark.parametrize("option", ["--requeue", "--no-requeue"])
def test_a_node_that_does_not_answer_proves_nothing(slurm: Slurm, ask: Ask, option: str) -> None:
    """Slurm has given up job and node, and would start the job anew; but its process is still there."""
    job = slurm.sbatch(f"{HOLDER}; exec sleep 1000", option, "--nodelist=n2")
    (holder,) = holders(slurm, job)
    until(lambda: sleeps(job))
    with slurm.silent("slurmd-n2"):
        slurm.ask("scontrol", "update", "nodename=n2", "state=down", "reason=a test")
        until(lambda: slurm.states(job) == ({"PENDING"} if option == "--requeue" else {"NODE_FAIL"}))
        assert sleeps(job)
        assert ask(holder).state == "unknown"
        assert "n2 is down" in ask(holder).proof or "NODE_FAIL" in ask(holder).proof
    until(lambda: slurm.nodes()["n2"] == "idle" and not sleeps(job))
    assert ask(holder).state == ("dead" if option == "--requeue" else "unknown")


def sleeps(job: str) -> bool:
    """Whether a process of the job is there, whatever Slurm says."""
    mark = f"SLURM_JOB_ID={job}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (
                mark in (process / "environ").read_bytes().split(b"\0")
                and b"sleep" in (process / "cmdline").read_bytes()
            ):
                return True
        except OSError:
            continue
    return False


def test_a_task_of_an_array_is_judged_by_itself(slurm: Slurm, ask: Ask) -> None:
    """One task is cancelled, the other goes on; each also has a plain id, which scripts note down."""
    job = slurm.sbatch(HOLD, "--array=1-2", "--open-mode=append")
    one, two = sorted(holders(slurm, job, 2), key=lambda holder: holder.array_index or 0)
    slurm.ask("scancel", f"{job}_1")
    until(lambda: "completing" not in slurm.ask("squeue", "-h", "-o", "%T").lower())
    until(lambda: ask(one).state == "dead")
    assert ask(two).state == "alive"
    assert ask(two).proof.startswith(f"Slurm job {job}_2 of ")
    raw = slurm.ask("squeue", "-h", "-j", f"{job}_2", "--Format=JobID").strip()
    assert ask(replace(two, job_id=raw, array_index=None)).state == "alive"


def test_what_slurm_has_forgotten_is_unknown(slurm: Slurm, ask: Ask) -> None:
    """A job that the controller does not know, without accounting, proves nothing."""
    (holder,) = holders(slurm, slurm.sbatch(HOLD))
    assert ask(replace(holder, job_id="99999")) == (
        "unknown",
        "Slurm does not know job 99999 any more, and cannot look it up: sacct: Slurm accounting storage is disabled",
    )


def test_an_id_that_is_used_again_proves_the_death(slurm: Slurm, ask: Ask) -> None:
    """The job of that id was submitted long after the holder began, so the holder's own is over."""
    (holder,) = holders(slurm, slurm.sbatch(HOLD))
    verdict = ask(replace(holder, since=holder.since - 3600))
    assert (verdict.state, "is another one by now, submitted at" in verdict.proof) == ("dead", True)
    assert ask(replace(holder, since=holder.since - 300)).state == "alive", "clocks may differ"


WRONG: list[tuple[dict[str, object], str]] = [
    ({"cluster": "alps"}, "is of cluster alps, and this is interlock"),
    ({"node": "n1"}, "n1 is not one of its nodes, n2"),
    ({"node": "", "host": "login1.example.org"}, "login1 is not one of its nodes"),  # the shell of salloc
    ({"since": 4e9}, "before this holder began"),
    ({"since": 0.0}, "does not tell since when"),
    ({"restart": 1}, "restarted 0 times only"),
]


def test_another_job_s_end_proves_nothing(slurm: Slurm, ask: Ask) -> None:
    """A job that has ended is no proof for a holder of another cluster, node, time or run, though of the same id."""
    job = slurm.sbatch(HOLDER, "--nodelist=n2")
    (holder,) = holders(slurm, job)
    slurm.wait(job)
    assert ask(holder).state == "dead"
    for wrong, words in WRONG:
        verdict = ask(replace(holder, **wrong))  # type: ignore[arg-type]
        assert (verdict.state, words in verdict.proof) == ("unknown", True), verdict


def test_a_holder_that_a_shell_noted_down_is_judged(slurm: Slurm, ask: Ask) -> None:
    """With an id alone the only scheduler here is asked, and its restarts are not held against the holder."""
    job = slurm.sbatch(HOLD)
    (holder,) = holders(slurm, job)
    noted = replace(holder, scheduler=None, cluster="", restart=0)
    assert ask(noted).state == "alive"
    slurm.ask("scancel", job)
    slurm.wait(job)
    assert ask(noted).state == "dead"


def test_a_controller_that_does_not_answer_is_unknown(slurm: Slurm, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """squeue would wait for it much longer; the next question does not even start one."""
    (holder,) = holders(slurm, slurm.sbatch(HOLD))
    with slurm.silent("slurmctld"), monkeypatch.context() as patch:
        patch.setattr(_command, "LIMIT_S", 1.0)
        assert ask(holder) == ("unknown", "squeue did not answer within 1 s")
        schedulers._remembered.clear()
        assert schedulers.life(holder) == ("unknown", "squeue did not answer a moment ago")
    assert ask(holder).state == "alive"
