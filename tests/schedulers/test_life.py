"""Who is asked about a holder, what is remembered, and that no answer at all is ever a proof of death."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock import schedulers
from interlock.holder import Holder, Life
from interlock.schedulers import _command, _run, kubernetes, lsf, pbs, sge, slurm
from interlock.schedulers._command import Refused
from interlock.schedulers._run import MARGIN_S, read_ctime
from interlock.world import Job
from schedulers.conftest import Stubs, in_time, recorded

Ask = Callable[[Holder], Life]
NOTED = Holder(host="node7", pid=1, job_id="261871", since=1.0)
MODULES = {"slurm": slurm, "lsf": lsf, "pbs": pbs, "sge": sge, "kubernetes": kubernetes}
IDS = {"slurm": "1", "lsf": "261871", "pbs": "4732778.login02", "sge": "1000000", "kubernetes": "memtest"}


def test_whoever_has_no_job_is_not_asked_about(stubs: Stubs) -> None:
    """Neither a process outside a job, nor a rank of torchrun, which nobody can be asked about."""
    assert schedulers.life(Holder(host="node7", pid=1)) is None
    assert schedulers.life(Holder(host="node7", pid=1, scheduler="torchrun", job_id="r1")) is None


def test_a_scheduler_that_nobody_knows_is_unknown(ask: Ask) -> None:
    """A holder that a later version has written is described, and proved nothing about."""
    assert ask(replace(NOTED, scheduler="moab")) == ("unknown", "nobody here knows how to ask about moab job 261871")


@pytest.mark.parametrize("scheduler", MODULES)
def test_an_absent_scheduler_is_unknown(ask: Ask, monkeypatch: pytest.MonkeyPatch, scheduler: str) -> None:
    """A login node without the scheduler's commands proves nothing."""
    holder = replace(NOTED, scheduler=scheduler, job_id=IDS[scheduler], cluster="default")
    monkeypatch.setenv("SGE_CLUSTER_NAME", "default")
    state, proof = ask(holder)
    assert (state, "there is no " in proof) == ("unknown", True)


def test_the_only_scheduler_is_asked_about_a_bare_id(stubs: Stubs, ask: Ask) -> None:
    """A shell notes down its job's id but not whose it is; where there are two schedulers, or none, it is unknown."""
    noted = replace(NOTED, host="it-c05b10", since=time.time())
    assert ask(noted) == ("unknown", "job 261871 may be of any scheduler, and none is here")
    stubs.says("bjobs", recorded("bjobs-done").replace("DONE", "RUN"))
    assert ask(noted).state == "alive"
    stubs.says("squeue")
    assert ask(noted) == ("unknown", "job 261871 may be of any scheduler, and slurm and lsf are here")


@pytest.mark.parametrize("scheduler", MODULES)
@pytest.mark.parametrize("name", ["", "--help", "1 2", "1,2", "1;id", "../1", "1\n2", "x" * 400, "812[", "$(id)"])
def test_an_id_that_is_none_is_not_passed_on(stubs: Stubs, ask: Ask, scheduler: str, name: str) -> None:
    """What a file says is not let into a command line, whoever wrote it."""
    for program in ("squeue", "bjobs", "qstat", "qacct", "kubectl"):
        stubs.script(program, f"echo called >> {stubs.directory}/called")
    holder = replace(NOTED, scheduler=scheduler, job_id=name or "-", cluster="")
    if scheduler == "kubernetes":
        holder = replace(holder, cluster="default")
    assert ask(holder).state == "unknown"
    assert not (stubs.directory / "called").exists()


# ---------------------------------------------------------------- memory


def test_what_has_ended_is_remembered_and_all_else_for_a_while(stubs: Stubs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A death stays true, so it is asked about once; a job that runs is asked about again after half a minute."""
    now = time.monotonic()
    monkeypatch.setattr(schedulers.time, "monotonic", lambda: now)
    since = read_ctime("Mar  3 16:46", until=time.time())
    assert since is not None
    holder = replace(NOTED, scheduler="lsf", host="it-c05b10", since=since)
    stubs.says("bjobs", recorded("bjobs-done").replace("DONE", "RUN"))
    assert schedulers.life(holder) == schedulers.life(holder)
    stubs.says("bjobs", recorded("bjobs-done"))
    assert schedulers.life(holder).state == "alive"  # type: ignore[union-attr]
    now += schedulers.REMEMBERED_S
    assert schedulers.life(holder).state == "dead"  # type: ignore[union-attr]
    (stubs.directory / "bjobs").unlink()
    now += 1e6
    assert schedulers.life(holder).state == "dead"  # type: ignore[union-attr]
    assert schedulers.life(replace(holder, since=since + 1)).state == "unknown"  # type: ignore[union-attr]


# ---------------------------------------------------------------- answers that nobody can read


@pytest.fixture
def _forgetful(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SGE_CLUSTER_NAME", "default")
    monkeypatch.setattr(schedulers, "REMEMBERED_S", -1.0)
    yield
    schedulers._remembered.clear()


def judged(scheduler: str, answer: Callable[..., str]) -> Life:
    """What is made of an answer, whatever the command."""
    holder = Holder("node7", 1, scheduler=scheduler, job_id=IDS[scheduler], cluster="default", node="n1", since=1.79e9)
    with mock.patch.object(MODULES[scheduler], "ask", answer):
        schedulers._remembered.clear()
        verdict = schedulers.life(holder)
    assert verdict is not None
    assert verdict.proof.isprintable()
    return verdict


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.usefixtures("_forgetful")
@pytest.mark.parametrize("scheduler", MODULES)
@settings(max_examples=150)
@given(text=st.text() | JSON.map(str) | st.sampled_from(["COMPLETED", "DONE|" * 8, "|" * 7, " " * 9999, "{" * 9999]))
def test_garbage_is_unknown(scheduler: str, text: str) -> None:
    """Whatever a command prints, or complains about, that is not the answer to the question proves nothing."""
    assert judged(scheduler, lambda *command: text).state == "unknown"

    def refuse(*command: str) -> str:
        raise Refused(text)

    assert judged(scheduler, refuse).state == "unknown"


REAL = [
    ("slurm", "sacct-requeued"), ("lsf", "bjobs-done"), ("pbs", "qstat-pbs"), ("sge", "qacct-sge"),
    ("kubernetes", "kubectl-terminated"),
]  # fmt: skip


@pytest.mark.usefixtures("_forgetful")
@pytest.mark.parametrize(("scheduler", "name"), REAL)
@settings(max_examples=150)
@given(data=st.data())
def test_a_damaged_answer_is_survived(scheduler: str, name: str, data: st.DataObject) -> None:
    """A real answer with a piece cut out, doubled or replaced is judged without an error, in printable words."""
    text = recorded(name)
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    piece = data.draw(st.sampled_from(["", text[first:last] * 2]) | st.text(max_size=5))
    damaged = text[:first] + piece + text[last:]

    def answer(*command: str) -> str:
        if command[0] == "squeue" or (command[0] == "qstat" and scheduler == "sge"):
            raise Refused("Invalid job id specified; following jobs do not exist")
        return damaged

    judged(scheduler, answer)


# ---------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tue Mar 12 10:27:52 2024", "2024-03-12 10:27"), ("Mar  3 16:46 2021", "2021-03-03 16:46"),
        ("Mar  3 16:46", "2024-03-03 16:46"), ("Jun  1 00:01", "2023-06-01 00:01"),
        ("Feb 29 12:00", "2024-02-29 12:00"),
    ],
)  # fmt: skip
def test_a_time_is_read_with_and_without_a_year(text: str, expected: str) -> None:
    """Without one it is the last such time, and a leap day is one of a leap year."""
    found = read_ctime(text, until=in_time("2024-06-01 00:00"))
    assert found is not None
    assert found // 60 * 60 == in_time(expected)


@pytest.mark.parametrize(
    "text", ["", "-", "-/-", "Foo  3 16:46", "Mar 32 16:46", "Mar  3", "Mar  3 16:46 L", "1795263738"]
)
def test_what_is_no_time_is_not_read(text: str) -> None:
    """A dash, an impossible day or another format is no time."""
    assert read_ctime(text, until=in_time("2024-06-01 00:00")) is None


def test_the_margin_is_for_clocks_only() -> None:
    """A run that began up to the margin after its holder may be its own: the node's clock may be behind."""
    holder, job = replace(NOTED, since=1e9), Job("slurm", "1")
    for late, state in ((MARGIN_S - 1, "dead"), (MARGIN_S + 1, "unknown")):
        run = _run.Run("dead", "ended", 1e9, 1e9 + late, 1e9 + late + 9)
        assert _run.weigh(run, job, holder).state == state
    assert _run.weigh(_run.Run("alive", "runs", 1e9 + MARGIN_S + 1), job, holder).state == "dead"
    assert _command.LIMIT_S == 10
