"""Start-up under real launchers: what is built is built once, all start together, one rank's fault is everybody's."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launchers.journal import Journal
from launchers.launching import MODULE, Done, agents, launch
from launchers.slurm import Slurm
from launchers.startup import VICTIM
from patience import until

RANKS = [0, 1, 2, 3]
SURVIVORS = [rank for rank in RANKS if rank != VICTIM]
SECONDS = 10.0  # every wait would end in another error after twice that time
Launch = Callable[..., Done]
on_two_nodes_and_one = pytest.mark.parametrize("launcher", ["srun", "fork"], indirect=True)
on_one_node = pytest.mark.parametrize("launcher", ["fork"], indirect=True)


def ranks(entries: list[dict[str, Any]]) -> list[int]:
    """Whose entries these are."""
    return sorted(entry["rank"] for entry in entries)


def check_started(journal: Journal) -> None:
    """All ranks of the only run in the journal met in one scope, built everything once, and started together."""
    assert ranks(journal.read("connected")) == ranks(journal.read("started")) == RANKS
    assert len({entry["scope"] for entry in journal.read("connected")}) == 1
    assert len(journal.read("index: builds")) == 1
    assert ranks(journal.read("index")) == RANKS
    assert len({tuple(entry["index"]) for entry in journal.read("index")}) == 1
    assert max(entry["at"] for entry in journal.read("index")) < min(entry["at"] for entry in journal.read("started"))


def check_alone(entries: list[dict[str, Any]], ranks_there: list[int]) -> None:
    """One rank built, and had left before another one entered; all of them entered."""
    events = [entry["event"].partition(": ")[2] for entry in entries]
    assert events[:3] == ["enters", "builds", "leaves"]
    assert events.count("builds") == 1
    assert len({entry["rank"] for entry in entries[:3]}) == 1
    assert ranks([entry for entry in entries if entry["event"].endswith("enters")]) == ranks_there
    assert [entry["rank"] for entry in entries if entry.get("alone")] == [entries[0]["rank"]] * 2


def test_everything_is_built_once_and_all_start_together(launcher: Launch, journal: Journal) -> None:
    """Once per job, once per node, and one index for all; whoever is first is alone, the others run side by side."""
    done = launcher("startup", str(journal.path))
    assert done.returncode == 0, done.stderr
    check_started(journal)
    check_alone([entry for entry in journal.read() if entry["event"].startswith("job: ")], RANKS)
    nodes = {entry["node"]: entry["rank"] for entry in journal.read("connected")}
    for node in nodes:
        there = ranks([entry for entry in journal.read("connected") if entry["node"] == node])
        check_alone([e for e in journal.read() if e["event"].startswith("node: ") and e["node"] == node], there)
    assert sorted(nodes) == ([0, 1] if "srun" in done.args else [0])


def test_an_error_is_everybodys(launcher: Launch, journal: Journal) -> None:
    """Every rank raises the error itself, and the others are told which rank raised it and where."""
    launcher("startup", str(journal.path), "raise_in_single")
    check_told(journal)


@on_two_nodes_and_one
def test_an_error_of_the_first_is_everybodys(launcher: Launch, journal: Journal) -> None:
    """So it is where the others would have run the block after the one that raised."""
    launcher("startup", str(journal.path), "raise_in_first")
    check_told(journal)


def check_told(journal: Journal) -> None:
    """Every rank raised the victim's error, and knows whose it is."""
    check_raised(journal, RANKS, "ValueError", "")
    for entry in journal.read("raised"):
        assert entry["says"] == "no such genome"
        assert "in _fail" in entry["text"]
        assert entry["rank"] == VICTIM or f"rank {VICTIM} of 4" in entry["text"]


@pytest.mark.parametrize("launcher", ["srun"], indirect=True)
def test_an_error_outlives_the_rank_that_raised_it(launcher: Launch, journal: Journal) -> None:
    """Ranks that come when the one that raised is gone get its error all the same, and do not run the block."""
    launcher("startup", str(journal.path), "leave_with_an_error")
    check_raised(journal, RANKS, "ValueError", "no such genome")
    assert journal.read("enters") == []


@on_one_node
def test_a_death_is_nobodys_who_does_not_wait_for_it(launcher: Launch, journal: Journal) -> None:
    """A barrier of three of the four ranks goes on without the fourth, which died and need not be one of them."""
    launcher("startup", str(journal.path), "die_outside_the_barrier")
    assert ranks(journal.read("went on")) == SURVIVORS, journal.read("raised")


@on_two_nodes_and_one
@pytest.mark.parametrize("fault", ["die_writing", "die_in_first"])
def test_another_rank_takes_over_from_a_dead_one(launcher: Launch, journal: Journal, fault: str) -> None:
    """When the first rank is killed at its work, another one does it, and the others go on with the result of that."""
    launcher("startup", str(journal.path), fault)
    assert ranks(journal.read("went on")) == SURVIVORS, journal.read("raised")
    check_in_time(journal, "went on")
    if fault == "die_writing":
        (builder,) = journal.read("index: builds")
        assert {entry["index"][0] for entry in journal.read("index")} == {builder["rank"]}
    else:
        assert [entry["alone"] for entry in journal.read("enters")] == [True, True, False, False]


@on_two_nodes_and_one
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("die_as_the_only_writer", "OwnerDied"),
        ("die_before_its_turn_to_write", "OwnerDied"),
        ("die_before_the_barrier", "BrokenBarrier"),
        ("die_in_the_barrier", "BrokenBarrier"),
    ],
)
def test_a_death_is_everybodys(launcher: Launch, journal: Journal, fault: str, kind: str) -> None:
    """When a rank is killed that the others cannot do without, all of them raise within seconds and name it."""
    launcher("startup", str(journal.path), fault)
    check_raised(journal, SURVIVORS, kind, f"rank {VICTIM}")


def check_raised(journal: Journal, by: list[int], kind: str, says: str) -> None:
    """These ranks raised, no other one, in time, and the error says so."""
    raised = journal.read("raised")
    assert (ranks(raised), ranks(journal.read("went on"))) == (by, [])
    assert {entry["kind"] for entry in raised} == {kind}, [entry["text"] for entry in raised]
    assert all(says in entry["says"] for entry in raised), raised
    check_in_time(journal, "raised")


def check_in_time(journal: Journal, event: str) -> None:
    """It befell every rank within seconds of the fault, or of its own arrival."""
    (fault,) = journal.read("at work")
    came = {entry["rank"]: max(entry["at"], fault["at"]) for entry in journal.read("connected")}
    assert max(entry["at"] - came[entry["rank"]] for entry in journal.read(event)) < SECONDS


def test_a_requeued_job_has_a_scope_of_its_own(slurm: Slurm, journal: Journal, shared: str) -> None:
    """The ranks of a requeued job meet one another, and nothing that the stopped run of the same job left behind."""
    startup = shlex.join(("srun", *MODULE, "launchers.startup", str(journal.path)))
    script = f'{startup}; [ -n "$SLURM_RESTART_COUNT" ] || sleep 1000'
    job = slurm.sbatch(script, "--nodes=2", "--ntasks=4", INTERLOCK_URL=shared)
    until(lambda: ranks(journal.read("started")) == RANKS, situation=lambda: slurm.output(job))
    slurm.requeue(job)
    assert slurm.wait(job) == {"COMPLETED"}, slurm.output(job)
    scopes = [entry["scope"] for entry in journal.read("connected")]
    assert (len(set(scopes[:4])), len(set(scopes[4:])), len(set(scopes))) == (1, 1, 2)
    assert ranks(journal.read("started")) == sorted(RANKS * 2)


@pytest.mark.parametrize("rendezvous", ["c10d", "static"])
def test_ranks_of_two_torchrun_agents_meet(journal: Journal, shared: str, rendezvous: str) -> None:
    """Two agents, as on two nodes, number four ranks, which start together where nothing but torchrun joins them."""
    for done in launch(
        *agents("-m", "launchers.startup", str(journal.path), rendezvous=rendezvous), INTERLOCK_URL=shared
    ):
        assert done.returncode == 0, done.stderr
    check_started(journal)
    worlds = sorted(entry["world"] for entry in journal.read("connected"))
    assert worlds == [[rank, 4, rank % 2, 2, rank // 2, "torchrun", "run7"] for rank in RANKS]


def test_ranks_that_torchrun_restarts_meet_again(journal: Journal, shared: str) -> None:
    """When a rank dies after the start, torchrun restarts all ranks on both nodes, and they start together again."""
    for done in launch(
        *agents("--max-restarts=1", "-m", "launchers.startup", str(journal.path), "die_once"), INTERLOCK_URL=shared
    ):
        assert done.returncode == 0, done.stderr
    assert ranks(journal.read("started")) == sorted(RANKS * 2)
    again = journal.read("connected")[4:]
    assert (ranks(again), len({entry["scope"] for entry in again})) == (RANKS, 1)


def test_families_of_one_process_do_not_disturb_each_other(journal: Journal) -> None:
    """A pool of processes after another one in which a rank was killed starts as if that had never been."""
    program = (
        "from launchers import family\n"
        f"family.main('fork', 4, 'launchers.startup', {str(journal.path)!r}, 'die_before_the_barrier')\n"
        f"assert family.main('fork', 4, 'launchers.startup', {str(journal.path)!r}) == [0] * 4\n"
    )
    (done,) = launch((MODULE[0], "-c", program))
    assert done.returncode == 0, done.stderr
    assert ranks(journal.read("started")) == RANKS


def test_an_array_does_nothing_twice(slurm: Slurm, shared: str, tmp_path: Path) -> None:
    """Four tasks that want one index make it once; submitted again, neither that nor their own work is done again."""

    def work(name: str) -> str:
        return f'"{MODULE[0]}" -m interlock run "{name}" --skip-if-done -- sh -c "echo {name} >> {tmp_path}/log"'

    script = f"{work('index')} && {work('task-$SLURM_ARRAY_TASK_ID')}"
    for _ in range(2):
        job = slurm.sbatch(script, "--array=0-3", INTERLOCK_URL=shared)
        assert slurm.wait(job) == {"COMPLETED"}, slurm.output(job)
    assert sorted((tmp_path / "log").read_text().split()) == ["index", *(f"task-{task}" for task in range(4))]
