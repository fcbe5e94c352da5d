"""asyncio: the same objects awaited, tasks in the place of threads, and cancelling leaves nothing behind."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

import interlock
import interlock.aio
import interlock.machines
from contract.conftest import standing
from interlock import _runners
from interlock._runners import Target
from interlock._script import Abandon, Submit
from machines.laws import tickets


def run(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test in a loop of its own."""

    @functools.wraps(test)
    def blocking(*args: Any, **options: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **options), 30))

    return blocking


async def until(condition: Callable[[], object]) -> None:
    """Return once the condition holds."""
    while not condition():
        await asyncio.sleep(0.001)


@asynccontextmanager
async def sessions(url: str, number: int) -> AsyncIterator[list[interlock.aio.Session]]:
    """So many sessions in a scope, the ranks of one world."""
    opened = [interlock.aio.connect(url, rank=rank, size=number) for rank in range(number)]
    try:
        yield opened
    finally:
        for session in opened:
            await session.close()


def stands(session: interlock.aio.Session, name: str) -> int:
    """How many tickets of a session stand in a record."""
    return standing(session._session, name)


@run
async def test_tasks_of_one_session_exclude_each_other(url: str) -> None:
    """No increment is lost when tasks of one session share a counter under the lock."""
    counter = [0]
    async with interlock.aio.connect(url) as session:

        async def work() -> None:
            for _ in range(10):
                async with session.lock("counter"):
                    seen = counter[0]
                    await asyncio.sleep(0)
                    counter[0] = seen + 1

        await asyncio.gather(*[work() for _ in range(5)])
    assert counter == [50]


@run
async def test_waiters_are_served_in_order(url: str) -> None:
    """Tasks of several sessions are served as they came."""
    served: list[int] = []
    async with sessions(url, 4) as ranks:

        async def work(session: interlock.aio.Session) -> None:
            async with session.lock("a"):
                served.append(session.rank)

        grant = await ranks[0].lock("a").acquire()
        tasks = []
        for session in ranks[1:]:
            tasks.append(asyncio.create_task(work(session)))
            await until(lambda session=session: stands(session, "a"))
        await grant.release()
        await asyncio.gather(*tasks)
    assert served == [1, 2, 3]


@run
async def test_more_tasks_than_sleeping_threads(url: str) -> None:
    """However many tasks wait, all are served."""
    served: list[int] = []
    async with interlock.aio.connect(url) as session:

        async def work(number: int) -> None:
            async with session.lock("a"):
                served.append(number)

        await asyncio.gather(*[work(number) for number in range(100)])
    assert sorted(served) == list(range(100))


@run
async def test_it_excludes_blocking_sessions(url: str) -> None:
    """An asynchronous and a blocking session in one scope exclude each other."""
    with interlock.connect(url) as other:
        async with interlock.aio.connect(url) as session:
            async with session.lock("a"):
                assert other.lock("a").try_acquire() is None
            with other.lock("a"):
                assert await session.lock("a").try_acquire() is None
                with pytest.raises(interlock.AcquireTimeout):
                    await session.lock("a").acquire(0.01)


@run
async def test_a_task_owns_what_it_acquired(url: str) -> None:
    """Acquiring twice in a task is a deadlock; another task cannot `release`, but a grant can be handed over."""
    async with interlock.aio.connect(url) as session:
        lock = session.lock("a")
        grant = await lock.acquire()
        with pytest.raises(interlock.Deadlock):
            await lock.acquire()
        with pytest.raises(interlock.NotHeld):
            await asyncio.create_task(lock.release())
        assert lock.held
        await asyncio.create_task(grant.release())
        assert not lock.held
        with pytest.raises(interlock.NotHeld):
            await grant.release()


@run
async def test_looking_takes_nothing(url: str) -> None:
    """`locked`, `holder` and `waiters` are awaited."""
    async with sessions(url, 2) as (one, two):
        lock = one.lock("a")
        assert (await lock.locked(), await lock.holder(), await lock.waiters()) == (False, None, [])
        async with two.lock("a") as grant:
            assert await lock.locked()
            assert (await lock.holder()).rank == 1
            assert (grant.token, grant.recovered) == (grant.token, False)
            assert grant.since > 0


@run
async def test_readers_writers_and_downgrade(url: str) -> None:
    """Readers share, a writer is alone, and a write hold becomes a read hold."""
    async with sessions(url, 2) as (one, two):
        async with one.rwlock("a").read(), two.rwlock("a").read():
            assert await one.rwlock("b").write().try_acquire()
        grant = await one.rwlock("a").write().acquire()
        assert await two.rwlock("a").read().try_acquire() is None
        await grant.downgrade()
        assert await two.rwlock("a").read().try_acquire()
        await grant.release()


@run
async def test_a_semaphore(url: str) -> None:
    """As many tasks hold as there are permits."""
    async with interlock.aio.connect(url) as session:
        semaphore = session.semaphore("a", 2)
        async with semaphore, semaphore:
            assert await semaphore.try_acquire() is None
        assert await semaphore.try_acquire()


@run
async def test_a_barrier_of_tasks(url: str) -> None:
    """Tasks of one session meet at a barrier; `abort` and `reset` work as elsewhere."""
    async with interlock.aio.connect(url) as session:
        barrier = session.barrier("a", 3)
        arrivals = await asyncio.gather(*[barrier.wait(20) for _ in range(3)])
        assert {arrival.index for arrival in arrivals} == {0, 1, 2}
        await barrier.abort("enough")
        assert await barrier.broken()
        with pytest.raises(interlock.BrokenBarrier, match="enough"):
            await barrier.wait()
        await barrier.reset()
        assert (await barrier.broken(), await barrier.waiting()) == (False, 0)


@run
async def test_an_event(url: str) -> None:
    """Setting lets waiting tasks go, also if it is cleared at once."""
    async with interlock.aio.connect(url) as session:
        event = session.event("a")
        assert await event.wait(0) is False
        waiting = [asyncio.create_task(event.wait(20)) for _ in range(3)]
        await until(lambda: stands(session, "a") == 3)
        await event.set()
        await event.clear()
        assert await asyncio.gather(*waiting) == [True] * 3
        assert not await event.is_set()


@run
async def test_what_is_not_kept_is_left_again(url: str) -> None:
    """A task that was owed a result, or made it, or failed, leaves the record, which then goes."""
    go = asyncio.Event()

    def once(session: interlock.aio.Session) -> interlock.aio.Once:
        return interlock.aio.Once(interlock.Once(session._session, "a", keep=False))

    async with sessions(url, 2) as (one, two):
        worker = asyncio.create_task(once(one).run(lambda: asyncio.wait_for(go.wait(), 20)))
        await until(lambda: stands(one, "a"))
        waiting = asyncio.create_task(once(two).run(pytest.fail))
        await until(lambda: stands(two, "a"))
        go.set()
        assert await asyncio.gather(worker, waiting) == [True, True]
        with pytest.raises(ZeroDivisionError):
            await once(one).run(lambda: 1 / 0)
        assert one._session.store.read("a") is None


@run
async def test_once_takes_functions_of_either_kind(url: str) -> None:
    """A coroutine function and a plain one are computed once; errors are everybody's."""

    async def compute() -> int:
        await asyncio.sleep(0)
        return 1

    async def fail() -> None:
        raise LookupError("no")

    async with sessions(url, 2) as (one, two):
        assert await asyncio.gather(one.once("a", compute), two.once("a", compute)) == [1, 1]
        assert await two.once("b", lambda: 2) == 2
        for session in (one, two):
            with pytest.raises(LookupError, match="no"):
                await session.once("c", fail)


@run
async def test_cancelled_work_is_taken_over(url: str) -> None:
    """When the task that computes is cancelled, the next one computes."""
    async with sessions(url, 2) as (one, two):
        began = asyncio.Event()

        async def never() -> None:
            began.set()
            await asyncio.Event().wait()

        worker = asyncio.create_task(one.once("a", never))
        await began.wait()
        waiting = asyncio.create_task(two.once("a", lambda: "taken over"))
        await until(lambda: stands(two, "a"))
        worker.cancel()
        assert await waiting == "taken over"
        with pytest.raises(asyncio.CancelledError):
            await worker


@run
async def test_a_fence(url: str) -> None:
    """One rank writes, all collect; the writer's error is raised on all."""

    async def turn(session: interlock.aio.Session) -> Any:
        async with session.fence("a") as fence:
            await fence.guard()
            fence.share(session.rank)
        return fence.collect()

    async def fail() -> None:
        raise LookupError("no")

    async with sessions(url, 3) as ranks:
        assert len(set(await asyncio.gather(*[turn(session) for session in ranks]))) == 1
        assert await asyncio.gather(*[session.single("b", lambda: 7) for session in ranks]) == [7] * 3
        errors = await asyncio.gather(*[session.single("c", fail) for session in ranks], return_exceptions=True)
        assert [type(error) for error in errors] == [LookupError] * 3


USES: dict[str, Callable[[interlock.aio.Session, str], Coroutine[Any, Any, Any]]] = {
    "lock": lambda session, name: session.lock(name).acquire(),
    "semaphore": lambda session, name: session.semaphore(name, 1).acquire(),
    "barrier": lambda session, name: session.barrier(name, 2).wait(),
    "event": lambda session, name: session.event(name).wait(),
    "once": lambda session, name: session.once(name, asyncio.Event().wait),
}


@pytest.mark.parametrize("kind", USES)
def test_cancelling_leaves_nothing_behind(url: str, kind: str) -> None:
    """However far a task has come when it is cancelled, nothing of it holds or waits afterwards."""

    async def cancelled(steps: int) -> None:
        name = f"after {steps}"
        async with sessions(url, 2) as (one, _):
            task = asyncio.create_task(USES[kind](one, name))
            for _ in range(steps):
                await asyncio.sleep(0)
            if steps == 40:
                await until(lambda: stands(one, name))
            task.cancel()
            if isinstance((await asyncio.gather(task, return_exceptions=True))[0], interlock.aio.Grant):
                return
            stored = one._session.store.read(name)
            if stored is not None:
                machine = interlock.machines.BY_KIND[kind]
                assert tickets(kind, machine.decode(stored.text)) == []

    for steps in (0, 1, 2, 3, 5, 8, 13, 21, 40):
        asyncio.run(asyncio.wait_for(cancelled(steps), 30))


@pytest.mark.parametrize("slow", [False, True])
@run
async def test_a_cancelled_rank_can_come_again(url: str, monkeypatch: pytest.MonkeyPatch, slow: bool) -> None:
    """A rank that was cancelled in a fence takes part when it comes again, and the turn is whole, however late the
    answer comes to what it had asked for."""
    if slow:
        monkeypatch.setitem(_runners._PERFORM, Submit, lambda *args: (Target.submit(*args), time.sleep(0.1))[0])
        monkeypatch.setitem(_runners._PERFORM, Abandon, lambda *args: pytest.fail("left to the background"))
    async with sessions(url, 2) as (one, two):
        waiting = asyncio.create_task(one.single("a", pytest.fail, writer=1))
        await until(lambda: stands(one, "a"))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        both = one.single("a", pytest.fail, writer=1), two.single("a", lambda: 5, writer=1)
        assert await asyncio.gather(*both) == [5, 5]


@run
async def test_cancelling_a_waiting_task_frees_its_place(url: str) -> None:
    """A cancelled waiter leaves the row at once; those behind it are served."""
    async with sessions(url, 3) as (one, two, three):
        grant = await one.lock("a").acquire()
        waiting = asyncio.create_task(two.lock("a").acquire())
        await until(lambda: stands(two, "a"))
        behind = asyncio.create_task(three.lock("a").acquire())
        await until(lambda: stands(three, "a"))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert stands(two, "a") == 0
        await grant.release()
        assert (await behind).token > grant.token


@run
async def test_waiting_does_not_hold_up_the_loop(url: str) -> None:
    """While a task waits for a lock, others run."""
    async with sessions(url, 2) as (one, two):
        async with one.lock("a"):
            waiting = asyncio.create_task(two.lock("a").acquire())
            await until(lambda: stands(two, "a"))
            for _ in range(100):
                await asyncio.sleep(0)
            assert not waiting.done()
        assert await waiting


@run
async def test_a_session_is_a_participant(url: str) -> None:
    """It has the face of a blocking session, and closing it gives everything back."""
    async with interlock.aio.connect(url, rank=1, size=3, note="n") as session:
        assert (session.rank, session.size, session.holder.note, session.lost) == (1, 3, "n", False)
        assert session.url == interlock.connect(url).url
        assert "aio" in repr(session)
        lock = session.lock("a")
        assert (lock.name, "aio Lock" in repr(lock)) == ("a", True)
        await lock.acquire()
    assert session.lost
    async with interlock.aio.connect(url) as other:
        assert await other.lock("a").try_acquire()
