"""job://: the scope of one run, which run that is, and that its dead ranks are missed."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock import job
from interlock.world import run_name
from patience import until

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "r7"}
SRUN = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "812"}


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of this test's own in the place of the memory of the machine."""
    monkeypatch.setattr(job, "_MEMORY", str(tmp_path))
    monkeypatch.setattr(job, "_rosters", rosters := {})
    os.register_at_fork(after_in_child=rosters.clear)
    return tmp_path / f"interlock-{os.geteuid()}"


# -- which run


@pytest.mark.parametrize("launched", [TORCHRUN, SRUN], ids=["torchrun", "srun"])
def test_ranks_share_a_run_and_restarts_do_not(launched: dict[str, str]) -> None:
    """The name does not depend on the rank, but on the run, its step and how often it was requeued."""
    rank = next(iter(launched))
    assert run_name(launched) == run_name({**launched, rank: "0"}) is not None
    changes = {"TORCHELASTIC_RUN_ID": "r8", "MASTER_PORT": "29501"}
    if launched is SRUN:
        changes = {"SLURM_JOB_ID": "813", "SLURM_STEP_ID": "1", "SLURM_RESTART_COUNT": "1"}
    names = {run_name({**launched, name: value}) for name, value in changes.items()} | {run_name(launched)}
    assert len(names) == len(changes) + 1


def test_a_run_without_an_id_has_no_name() -> None:
    """torchrun's "none" is no id; $INTERLOCK_RUN is one, whatever else is told."""
    assert run_name({**TORCHRUN, "TORCHELASTIC_RUN_ID": "none", "MASTER_PORT": "29500"}) is None
    assert run_name({**TORCHRUN, "INTERLOCK_RUN": "mine"}) == run_name({"INTERLOCK_RUN": "mine"}) == "mine"


def test_several_nodes_without_an_id_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than to meet the ranks of another run, nobody is met; the error says what to set."""
    told = {**TORCHRUN, "TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "GROUP_RANK": "1"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(interlock.Unavailable, match="INTERLOCK_RUN"):
        interlock.connect("job://")


def test_several_nodes_meet_in_the_shared_scope(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ranks on several nodes meet under $INTERLOCK_URL, not in the memory of one of them."""
    for name, value in {**SRUN, "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_NODEID": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("INTERLOCK_URL", f"file://{tmp_path}/shared")
    with interlock.connect("job://") as session:
        assert session.url.startswith(f"file://{tmp_path}/shared/jobs/")
        assert (session.rank, session.size) == (1, 2)


def test_a_process_alone_is_a_run_of_its_own() -> None:
    """Without a launcher there is one rank, and a child of `multiprocessing` finds the same scope."""
    with interlock.connect("job://") as session, multiprocessing.get_context("spawn").Pool(1) as pool:
        assert (session.rank, session.size) == (0, 1)
        assert pool.apply(_url, (job._MEMORY,)) == session.url


def _url(memory: str) -> str:
    job._MEMORY = memory
    return interlock.connect("job://").url


# -- where


def test_the_scope_is_private(memory: Path) -> None:
    """It lies in a directory of the user's own; one that others could write is refused."""
    with interlock.connect("job://") as session:
        session.lock("a").acquire()
    assert stat.S_IMODE(memory.stat().st_mode) == 0o700
    memory.chmod(0o777)
    with pytest.raises(interlock.Unavailable, match="only this user"):
        interlock.connect("job://")


def test_a_link_in_its_place_is_refused(memory: Path, tmp_path: Path) -> None:
    """Nobody can lead us elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    memory.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(interlock.Unavailable, match="only this user"):
        interlock.connect("job://")
    assert os.listdir(tmp_path / "elsewhere") == []


def test_old_scopes_are_swept_unless_somebody_lives_there(memory: Path) -> None:
    """What a run left a day ago goes when the next run begins; what is young, alive or not ours stays."""
    dead, alive, young = (memory / "jobs" / name for name in ("dead", "alive", "young"))
    with interlock.connect(f"file://{alive}") as living:
        living.lock("a").acquire()
        for path in (dead, young):
            with interlock.connect(f"file://{path}") as session:
                session.once("a", lambda: 1)
        for path in (dead, alive):
            for file in (path, *path.rglob("*")):
                os.utime(file, (0, time.time() - job.SWEEP_S - 60))
        job.sweep(memory / "jobs")
        assert sorted(os.listdir(memory / "jobs")) == ["alive", "young"]


def _share(rank: int) -> None:
    with interlock.connect("job://", rank=rank, size=2) as session:
        session.single("a", lambda: "x" * 200_000)
        session.barrier("end").wait(60)
    job.leave_runs()


def test_the_last_to_end_removes_the_scope(memory: Path) -> None:
    """A run whose ranks have all come and gone leaves nothing behind, large results included."""
    ranks = [RANKS.Process(target=_share, args=(rank,)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
        assert process.exitcode == 0
    assert os.listdir(memory / "jobs") == []


def test_a_run_that_was_killed_is_swept_by_the_next(memory: Path) -> None:
    """All its ranks were there and are dead, so nobody can come for what it left."""
    for rank in range(2):
        rank_of(2, rank, die).join()
    (left,) = os.listdir(memory / "jobs")
    job.sweep(memory / "jobs")
    assert os.listdir(memory / "jobs") == [], left


def test_a_run_is_not_over_before_all_ranks_came(memory: Path) -> None:
    """What the first of two ranks left when it ended is there for the other one."""
    rank_of(2, 0, lambda session: (session.close(), job.leave_runs())).join()
    job.sweep(memory / "jobs")
    assert len(os.listdir(memory / "jobs")) == 1


# -- who lives

RANKS = multiprocessing.get_context("fork")


def rank_of(size: int, rank: int, act: Callable[[interlock.Session], Any]) -> Any:
    """A process that is one rank of a run and does something."""
    process = RANKS.Process(target=_serve, args=(size, rank, act), daemon=True)
    process.start()
    return process


def _serve(size: int, rank: int, act: Callable[[interlock.Session], Any]) -> None:
    act(interlock.connect("job://", rank=rank, size=size))


def die(session: interlock.Session) -> None:
    """End before meeting anybody."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail(session: interlock.Session) -> None:
    """End with an error before meeting anybody."""
    os.close(2)
    raise LookupError("no such file")


@pytest.mark.parametrize("end", [die, fail])
def test_a_rank_that_ends_before_the_first_barrier_is_missed(end: Callable[..., Any]) -> None:
    """The others are told within seconds, and by name, though nobody ever met the dead rank."""
    with interlock.connect("job://", rank=0, size=3) as session:
        barrier = session.barrier("start")
        other = rank_of(3, 1, lambda mine: mine.barrier("start").wait(60))
        until(lambda: barrier.waiting == 1)
        ended = rank_of(3, 2, end)
        with pytest.raises(interlock.BrokenBarrier, match=r"died before it arrived.*rank 2 of 3") as told:
            barrier.wait(60)
        assert [(holder.rank, holder.pid) for holder in told.value.missing] == [(2, ended.pid)]
        other.join(20)
        assert other.exitcode == 1


def test_a_writer_that_ends_before_it_came_is_missed() -> None:
    """Those who wait for the rank that is to write get `OwnerDied`."""
    with interlock.connect("job://", rank=0, size=2) as session:
        rank_of(2, 1, die)
        with pytest.raises(interlock.OwnerDied, match="rank 1 is gone"):
            session.single("index", pytest.fail, writer=1, timeout=60)


def test_a_party_that_ends_between_two_turns_does_not_hold_the_others_up() -> None:
    """A turn is over without a rank that ended before it ever took part."""
    with interlock.connect("job://", rank=0, size=2) as session:
        assert session.single("a", lambda: 1) == 1
        rank_of(2, 1, die)
        assert session.single("a", lambda: 2, timeout=60) == 2


def test_a_rank_is_not_missed_while_its_process_lives() -> None:
    """A rank that closed one session and has not opened the next is only late."""

    def late(session: interlock.Session) -> None:
        session.event("met").set()
        session.close()
        time.sleep(1.5)
        interlock.connect("job://", rank=1, size=2).barrier("start").wait(60)

    with interlock.connect("job://", rank=0, size=2) as session:
        rank = rank_of(2, 1, late)
        session.event("met").wait(60)
        session.barrier("start").wait(60)
        rank.join()
        assert rank.exitcode == 0


def test_the_dead_of_an_earlier_run_of_the_same_parent_are_not_ours(memory: Path) -> None:
    """Where runs cannot be told apart, only the deaths of ranks that came after us count."""
    rank_of(2, 1, die).join()
    second = rank_of(2, 0, lambda session: session.barrier("start").wait(60))
    rank_of(2, 1, lambda session: session.barrier("start").wait(60)).join()
    second.join()
    assert second.exitcode == 0


def test_the_ranks_of_a_node_are_looked_up_by_their_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On the second node it is the death of rank 3 that its first rank is told of, not that of rank 1."""
    monkeypatch.setenv("INTERLOCK_URL", f"file://{tmp_path}/shared")
    told = {"STEP_NUM_TASKS": "4", "STEP_TASKS_PER_NODE": "2(x2)", "STEP_ID": "0", "JOB_ID": "7", "NODEID": "1"}
    for name, value in {**told, "PROCID": "2", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    with interlock.connect("job://") as session:
        monkeypatch.setenv("SLURM_PROCID", "3")
        monkeypatch.setenv("SLURM_LOCALID", "1")
        dead = RANKS.Process(target=lambda: die(interlock.connect("job://")))
        dead.start()
        dead.join()
        for name, value in {"PROCID": "2", "LOCALID": "0"}.items():
            monkeypatch.setenv(f"SLURM_{name}", value)
        for turn in range(2):
            with session.first("a", scope="node", timeout=60) as mine:
                assert mine, turn


def test_a_pickled_session_still_knows_the_ranks() -> None:
    """What a worker got by pickle asks the same roster, and is no rank itself."""
    with interlock.connect("job://", rank=0, size=2) as session:
        copy = pickle.loads(pickle.dumps(session))
        assert copy.alive("#0").state == "alive"
        assert copy.alive("#1").state == "unknown"
    assert functools.reduce(getattr, ("url",), copy) == session.url
