"""Fence and single: in each turn one rank writes, the others wait, and all get its value or its error."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import interlock
from contract.conftest import Thread, standing
from interlock.abc import Evict
from patience import until

Connect = Callable[..., interlock.Session]
Background = Callable[..., Thread]


def world(connect: Connect, size: int) -> list[interlock.Session]:
    """The sessions of all ranks."""
    return [connect(rank=rank, size=size) for rank in range(size)]


def turn(session: interlock.Session, build: Callable[[], Any], **options: Any) -> Any:
    """One rank's way through a fence."""
    with session.fence("a", **options) as fence:
        fence.guard()
        fence.share(build())
    return fence.collect()


def test_one_writes_and_all_collect(connect: Connect, background: Background) -> None:
    """Exactly one rank passes the guard; every rank collects what it shared, once per turn over many turns."""
    sessions, built = world(connect, 3), []

    def rank(session: interlock.Session) -> list[Any]:
        def build() -> tuple[int, int]:
            built.append(session.rank)
            return session.rank, len(built)

        return [turn(session, build) for _ in range(4)]

    results = [thread.result() for thread in [background(rank, session) for session in sessions]]
    assert results[0] == results[1] == results[2]
    assert [number for _, number in results[0]] == [1, 2, 3, 4]
    assert len(built) == 4


def test_the_writer_can_be_chosen(connect: Connect, background: Background) -> None:
    """With `writer` it is that rank which writes, though others came first."""
    sessions = world(connect, 3)
    threads = []
    for session in sessions[:2]:
        threads.append(background(lambda who=session: turn(who, pytest.fail, writer=2)))
        until(lambda session=session: standing(session, "a"))
    assert turn(sessions[2], lambda: "by two", writer=2) == "by two"
    assert [thread.result() for thread in threads] == ["by two"] * 2


@pytest.mark.parametrize("writer", [-1, 3])
def test_a_writer_is_a_rank(connect: Connect, writer: int) -> None:
    """A writer outside the world is a `ValueError`."""
    with pytest.raises(ValueError, match="writer"):
        connect(rank=0, size=3).fence("a", writer=writer)


def test_the_writers_error_is_raised_on_all_ranks(connect: Connect, background: Background) -> None:
    """The writer's exception leaves every rank's block, with its type and arguments, and the next turn works."""
    sessions = world(connect, 3)

    def build() -> None:
        raise ZeroDivisionError("on the writer")

    for thread in [background(turn, session, build) for session in sessions]:
        with pytest.raises(ZeroDivisionError, match="on the writer"):
            thread.result()
    threads = [background(turn, session, lambda: 1) for session in sessions]
    assert [thread.result() for thread in threads] == [1, 1, 1]


def test_what_is_not_shared_is_none(connect: Connect, background: Background) -> None:
    """A writer that shares nothing gives None to all."""
    sessions = world(connect, 2)

    def rank(session: interlock.Session) -> Any:
        with session.fence("a") as fence:
            fence.guard()
        return fence.collect()

    assert [thread.result() for thread in [background(rank, session) for session in sessions]] == [None, None]


def test_the_last_share_counts(connect: Connect) -> None:
    """Sharing twice gives the later value."""
    with connect().fence("a") as fence:
        fence.guard()
        fence.share(1)
        fence.share(2)
    assert fence.collect() == 2


def test_only_the_writer_shares_after_the_guard(connect: Connect) -> None:
    """`share` before `guard`, `guard` outside the block and `collect` inside it are `NotHeld`."""
    fence = connect().fence("a")
    with pytest.raises(interlock.NotHeld):
        fence.guard()
    with fence:
        with pytest.raises(interlock.NotHeld):
            fence.share(1)
        fence.guard()
        with pytest.raises(interlock.NotHeld):
            fence.collect()


def test_a_rank_that_does_not_come_is_a_timeout(connect: Connect, background: Background) -> None:
    """When the chosen writer does not come, the wait ends with `AcquireTimeout`; who comes again later takes part."""
    one, late = world(connect, 2)
    with pytest.raises(interlock.AcquireTimeout):
        turn(one, pytest.fail, writer=1, timeout=0.02)
    again = background(lambda: turn(one, pytest.fail, writer=1))
    assert turn(late, lambda: "at last", writer=1) == "at last"
    assert again.result() == "at last"


def test_an_error_before_the_guard_reaches_all(connect: Connect, background: Background) -> None:
    """A writer that fails before it even guards fails the turn for all instead of letting them hang."""
    sessions = world(connect, 2)

    def rank(session: interlock.Session) -> None:
        with session.fence("a", writer=0, timeout=10) as fence:
            if session.rank == 0:
                raise LookupError("before the guard")
            fence.guard()

    for thread in [background(rank, session) for session in sessions]:
        with pytest.raises(LookupError, match="before the guard"):
            thread.result()


def test_single_gives_all_the_value(connect: Connect, background: Background) -> None:
    """`single` is the fence in one call: one rank computes, all return the value."""
    sessions, calls = world(connect, 3), []

    def build() -> int:
        calls.append(1)
        return 42

    threads = [background(session.single, "a", build) for session in sessions]
    assert [thread.result() for thread in threads] == [42] * 3
    assert len(calls) == 1


def test_single_gives_all_the_error(connect: Connect, background: Background) -> None:
    """An error in `single` is raised on every rank; a value that cannot travel is such an error."""
    sessions = world(connect, 2)
    for thread in [background(session.single, "a", object) for session in sessions]:
        with pytest.raises(TypeError, match="cannot travel"):
            thread.result()


def test_a_world_of_one_needs_no_other(connect: Connect) -> None:
    """Without a launcher the session is rank 0 of 1 and writes alone."""
    session = connect()
    assert [session.single("a", lambda: 1), session.single("a", lambda: 2)] == [1, 2]


def test_ranks_must_agree(connect: Connect, background: Background) -> None:
    """A rank with another idea of the world's size is told `Mismatch`; the turn goes on."""
    one, two, odd = connect(rank=0, size=2), connect(rank=1, size=2), connect(rank=0, size=3)
    waiting = background(lambda: turn(one, pytest.fail, writer=1))
    until(lambda: standing(one, "a"))
    with pytest.raises(interlock.Mismatch):
        turn(odd, pytest.fail)
    assert turn(two, lambda: 1, writer=1) == 1
    assert waiting.result() == 1


def test_without_takeover_a_dead_writer_is_everybodys_error(connect: Connect, background: Background) -> None:
    """Those who wait get `OwnerDied`, which names the dead writer, instead of its turn; nobody writes."""
    dying, *others = world(connect, 3)
    turn_of = dying.fence("a", takeover=False)
    turn_of.__enter__()
    threads = [background(lambda who=who: turn(who, pytest.fail, takeover=False)) for who in others]
    for session in others:
        until(lambda session=session: standing(session, "a"))
    dying.store.transact("a", interlock.Fence.machine, Evict(dying.id))
    for thread in threads:
        with pytest.raises(interlock.OwnerDied, match="rank 0 of 3"):
            thread.result()


def test_an_interrupted_writer_hands_over(connect: Connect, background: Background) -> None:
    """A writer that is thrown out by a BaseException is followed by the next rank; without takeover all are told."""
    for takeover in (True, False):
        one, two = world(connect, 2)
        name = f"a{takeover}"
        fence = one.fence(name, takeover=takeover)
        fence.__enter__()
        fence.guard()
        waiting = background(functools.partial(two.single, name, lambda: "taken over", takeover=takeover))
        until(functools.partial(standing, two, name))
        assert not fence.__exit__(SystemExit, SystemExit(3), None)
        if takeover:
            assert waiting.result() == "taken over"
        else:
            with pytest.raises(interlock.RemoteError, match="SystemExit"):
                waiting.result()


def test_a_sign_of_life_extends_the_others_patience(connect: Connect, background: Background) -> None:
    """Work that takes many times the timeout is waited for as long as the writer gives signs of life, then no more."""
    one, two = world(connect, 2)
    began = time.monotonic()
    with one.fence("a") as fence:
        fence.guard()
        waiting = background(lambda: two.single("a", pytest.fail, timeout=0.5))
        while time.monotonic() < began + 1.5:
            fence.heartbeat()
            time.sleep(0.05)
        fence.share("at last")
    assert waiting.result() == "at last"
    with one.fence("b") as fence:
        fence.guard()
        with pytest.raises(interlock.AcquireTimeout):
            two.single("b", pytest.fail, timeout=0.2)
        fence.heartbeat()


def test_only_the_writer_gives_signs_of_life(connect: Connect) -> None:
    """Before the guard, and outside the block, there is nothing to tell."""
    fence = connect(rank=0, size=1).fence("a")
    with pytest.raises(interlock.NotHeld):
        fence.heartbeat()


def test_the_error_names_the_rank_that_raised_it(connect: Connect, background: Background) -> None:
    """Whoever is told of an error is told which rank it comes from."""
    one, two = world(connect, 2)

    def fails() -> None:
        raise LookupError("no such file")

    single = functools.partial(interlock.Session.single, name="a", fn=fails, writer=1)
    waiting = [background(single, session) for session in (one, two)]
    with pytest.raises(LookupError, match="no such file") as told:
        waiting[0].result()
    waiting[1]._thread.join()
    assert "rank 1 of 2" in "".join(told.value.__notes__)


# -- first


def test_the_first_runs_alone_and_the_others_after_it(connect: Connect, background: Background) -> None:
    """While the first rank is in its block nobody else is; then all the others are, together; turn after turn."""
    sessions = world(connect, 3)
    together = threading.Barrier(2)
    inside: dict[int, list[int]] = {0: [], 1: [], 2: []}

    def rank(session: interlock.Session) -> list[bool]:
        told = []
        for number, row in inside.items():
            with session.first("a") as mine:
                row.append(session.rank)
                told.append(mine)
                if not mine:
                    together.wait(20)
            if mine:
                assert row[0] == session.rank, number
        return told

    told = [thread.result() for thread in [background(rank, session) for session in sessions]]
    assert [sum(turn) for turn in zip(*told, strict=True)] == [1, 1, 1]


def test_the_error_of_the_first_is_everybodys(connect: Connect, background: Background) -> None:
    """If the first rank's block raises, the others raise the same instead of running theirs."""
    one, two = world(connect, 2)
    block = one.first("a")
    block.__enter__()
    waiting = background(two.first("a").__enter__)
    until(lambda: standing(two, "a"))
    assert not block.__exit__(LookupError, LookupError("no such file"), None)
    with pytest.raises(LookupError, match="no such file"):
        waiting.result()


def test_there_is_one_first_on_each_node(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``scope="node"`` the ranks of two nodes do not wait for one another."""
    sessions = world(connect, 4)
    firsts = []
    for rank, session in enumerate(sessions):
        told = {"PROCID": rank, "STEP_NUM_TASKS": 4, "LOCALID": rank % 2, "STEP_TASKS_PER_NODE": "2(x2)"}
        for name, value in {**told, "NODEID": rank // 2, "STEP_ID": 0, "JOB_ID": 7}.items():
            monkeypatch.setenv(f"SLURM_{name}", str(value))
        with session.first("a", scope="node") as mine:
            firsts.append(mine)
    assert firsts == [True, False, True, False]
    with pytest.raises(ValueError, match="scope is job or node"), sessions[0].first("a", scope="rack"):
        pytest.fail("there is no such scope")
