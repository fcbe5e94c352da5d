"""What the machines mean, case by case: the order of service, hand-over, and what each party is told."""

from __future__ import annotations

from typing import Any

import pytest

from interlock.abc import WAITING, Evict, Leave, Machine, Outcome, Ticket
from interlock.machines import barrier, event, fence, once
from interlock.machines.admission import LOCK, SEMAPHORE, Acquire, Downgrade

A, B, C, D = (Ticket(session, 1) for session in "abcd")


class Table:
    """A machine with its record: each op submitted changes it, and the outcome comes back."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.record = machine.initial(0)

    def __call__(self, op: Any) -> Outcome:
        self.record, outcome = self.machine.apply(self.record, op)
        return outcome

    def states(self, *ops: Any) -> list[str]:
        return [self(op).state for op in ops]


def read(ticket: Ticket) -> Acquire:
    return Acquire(ticket, shared=True)


# -- lock, rwlock, semaphore


def test_a_waiting_writer_is_not_overtaken_by_readers() -> None:
    """A reader that comes after a waiting writer waits, though it could share the lock: writers do not starve."""
    lock = Table(LOCK)
    assert lock.states(read(A), Acquire(B), read(C)) == ["granted", WAITING, WAITING]
    assert lock(Leave(A)).unpark == (B,)
    assert lock.states(read(C), Acquire(B)) == [WAITING, "granted"]


def test_readers_are_let_in_together_before_the_next_writer() -> None:
    """A writer's release lets in all readers up to the next writer, which does not starve them."""
    lock = Table(LOCK)
    lock.states(Acquire(A), read(B), read(C), Acquire(D))
    assert lock(Leave(A)).unpark == (B, C)
    assert lock(Leave(B)).unpark == ()
    assert lock(Leave(C)).unpark == (D,)


def test_a_waiting_writer_that_gives_up_lets_the_readers_behind_it_in() -> None:
    """Giving up a place serves those who waited for nobody else."""
    lock = Table(LOCK)
    lock.states(read(A), Acquire(B), read(C), read(D))
    assert lock(Leave(B, 0, "timed out")).unpark == (C, D)


def test_a_downgrade_is_atomic() -> None:
    """The hold becomes shared with its token, the readers behind come in, and no writer comes between."""
    lock = Table(LOCK)
    held = lock(Acquire(A)).value
    lock.states(read(B), Acquire(C), read(D))
    outcome = lock(Downgrade(A))
    assert outcome.state == "granted"
    assert outcome.value == held
    assert outcome.unpark == (B,)
    assert lock.states(Acquire(C), read(D)) == [WAITING, WAITING]
    assert lock.states(Downgrade(A), Downgrade(D)) == ["granted", "gone"]


def test_trying_once_leaves_nothing_behind() -> None:
    """A refused try names those ahead, takes no place and does not overtake those who wait."""
    lock = Table(LOCK)
    lock.states(read(A), Acquire(B))
    before = lock.record
    outcome = lock(Acquire(C, shared=True, wait=False))
    assert (outcome.state, outcome.watch, outcome.position) == ("refused", ("a", "b"), 2)
    assert lock.record is before


def test_a_waiter_watches_the_one_before_it_and_the_first_all_holders() -> None:
    """So that a death is noticed by one waiter, not by all."""
    lock = Table(LOCK)
    lock.states(read(A), read(B))
    assert lock(Acquire(C)).watch == ("a", "b")
    assert lock(Acquire(D)).watch == ("c",)


def test_the_death_of_a_writer_is_told_until_one_can_repair() -> None:
    """Readers are told and go on being told; the first writer after them is the last to hear of it."""
    lock = Table(LOCK)
    lock(Acquire(A))
    lock(Evict("a"))
    assert lock(read(B)).value.recovered
    assert lock(read(C)).value.recovered
    lock.states(Leave(B), Leave(C))
    assert lock(Acquire(D)).value.recovered
    lock(Leave(D))
    assert not lock(Acquire(A)).value.recovered


def test_a_grant_that_comes_too_late_hands_the_news_on() -> None:
    """Who gave up without having known of its grant repaired nothing: the next one is told of the death."""
    lock = Table(LOCK)
    lock.states(Acquire(A), Acquire(B), Evict("a"))
    lock(Leave(B, 0, "timed out"))
    assert lock(Acquire(C)).value.recovered


def test_the_death_of_a_reader_or_waiter_needs_no_repair() -> None:
    """Only who could write may have left something half-written."""
    lock = Table(LOCK)
    lock.states(read(A), Acquire(B), Evict("b"), Evict("a"))
    assert not lock(Acquire(C)).value.recovered


def test_a_permit_comes_back_from_the_dead() -> None:
    """The next in the row gets the permit of a dead holder, and is told."""
    semaphore = Table(SEMAPHORE)
    asked = [Acquire(ticket, shared=True, permits=2) for ticket in (A, B, C)]
    assert semaphore.states(*asked) == ["granted", "granted", WAITING]
    assert semaphore(Evict("a")).unpark == (C,)
    assert semaphore(asked[2]).value.recovered


def test_the_number_of_permits_may_change_only_when_nobody_is_there() -> None:
    """While anybody holds or waits, another number is a mismatch that names the right one."""
    semaphore = Table(SEMAPHORE)
    semaphore(Acquire(A, shared=True, permits=2))
    outcome = semaphore(Acquire(B, shared=True, permits=3))
    assert (outcome.state, outcome.value) == ("mismatch", 2)
    semaphore(Leave(A))
    assert semaphore(Acquire(B, shared=True, permits=3)).state == "granted"


# -- barrier


def gathered(*tickets: Ticket) -> Table:
    """A barrier at which all but the last of the parties wait."""
    table = Table(barrier.BARRIER)
    for ticket in tickets[:-1]:
        assert table(barrier.Arrive(ticket, len(tickets), ticket.session)).state == WAITING
    return table


def passed(*tickets: Ticket) -> Table:
    """A barrier that all have passed and left."""
    table = gathered(*tickets)
    last = table(barrier.Arrive(tickets[-1], len(tickets), tickets[-1].session))
    table(last.then)
    assert table.states(*map(Leave, tickets)) == ["passed"] * len(tickets)
    return table


def test_the_last_to_arrive_looks_at_the_others_first() -> None:
    """Arriving last does not complete a generation; the request to do so comes with whom to look at."""
    table = gathered(A, B, C)
    outcome = table(barrier.Arrive(C, 3, "c"))
    assert (outcome.state, outcome.watch, outcome.then) == (WAITING, ("a", "b"), barrier.Complete(C, 0))
    completed = table(outcome.then)
    assert (completed.state, completed.value, completed.unpark) == ("passed", (2, 0), (A, B))


def test_who_is_slow_to_wake_still_learns_that_it_passed() -> None:
    """A verdict waits for its ticket while later generations come and break; a late time-out learns it, too."""
    table = gathered(A, B)
    table(table(barrier.Arrive(B, 2, "b")).then)
    table.states(Leave(B), barrier.Arrive(Ticket("b", 2), 2, "b"), barrier.Abort("no more"))
    assert table(barrier.Arrive(A, 2, "a")) == Outcome("passed", (0, 0))
    assert table(Leave(A, 0, "timed out")) == Outcome("passed", (0, 0))
    assert table(Leave(A)).state == "gone"


def test_a_time_out_breaks_the_barrier_and_names_who_is_missing() -> None:
    """All who wait are let go, later ones are told at once, with the same reason and the missing ranks."""
    table = Table(barrier.BARRIER)
    table.states(barrier.Arrive(A, 3, "0"), barrier.Arrive(B, 3, "2"))
    outcome = table(Leave(A, 0, "timed out after 5.0 s"))
    assert (outcome.state, outcome.unpark) == ("broken", (B,))
    assert outcome.value.reason == "rank 0 timed out after 5.0 s: 2 of 3 had arrived"
    assert outcome.value.missing == (("", "1"),)
    assert table(barrier.Arrive(B, 3, "2")).value == outcome.value
    assert table(barrier.Arrive(C, 3, "1", sure=True)).value == outcome.value


def test_a_reset_lets_the_waiting_go_and_starts_afresh() -> None:
    """Who waited is told of a reset; the same parties can meet again at once."""
    table = gathered(A, B)
    assert table(barrier.Reset()).unpark == (A,)
    assert table(barrier.Arrive(A, 2, "a")).value.reason == "the barrier was reset"
    table.states(barrier.Abort(), barrier.Reset())
    assert table(barrier.Arrive(B, 2, "b")).state == WAITING


def test_a_party_that_dies_waiting_breaks_the_barrier() -> None:
    """It is named, and does not count as arrived however complete the generation is."""
    table = gathered(A, B)
    table(barrier.Arrive(B, 2, "b"))
    assert table(Evict("a", 0, "its process is gone")).unpark == (B,)
    verdict = table(barrier.Complete(B, 0))
    assert verdict.state == "broken"
    assert verdict.value == barrier.Broken("a party died while waiting: its process is gone", (("a", "a"),))


def test_a_party_that_dies_between_two_meetings_is_missed() -> None:
    """The first to come back watches it; evicting it breaks the barrier for those who came back."""
    table = passed(A, B, C)
    assert table(barrier.Arrive(Ticket("b", 2), 3, "b")).watch == ("a", "c")
    assert table(Evict("c")).unpark == (Ticket("b", 2),)
    assert table(barrier.Arrive(Ticket("a", 2), 3, "a")).value.missing == (("c", "c"),)


def test_a_party_evicted_before_anybody_came_back_is_missed_all_the_same() -> None:
    """Its death is remembered: whoever comes back is told at once and does not wait for ever."""
    table = passed(A, B)
    table(Evict("a"))
    outcome = table(barrier.Arrive(Ticket("b", 2), 2, "b"))
    assert (outcome.state, outcome.value.missing) == ("broken", (("a", "a"),))


def test_the_dead_of_the_last_run_do_not_break_the_next() -> None:
    """Parties that are all new meet under the labels of the dead."""
    table = passed(A, B)
    assert table(barrier.Arrive(C, 2, "a")).watch == ("b",)
    assert table(Evict("b")).state == "left"
    last = table(barrier.Arrive(D, 2, "b"))
    assert table(last.then).state == "passed"


def test_a_rank_that_dies_before_anybody_saw_it_is_missed_by_its_rank() -> None:
    """The first arrival watches the ranks that nobody answers to; the death of one breaks the barrier and names it."""
    table = Table(barrier.BARRIER)
    assert table(barrier.Arrive(A, 3, "0")).watch == ("#1", "#2")
    table(barrier.Arrive(B, 3, "2"))
    assert table(Evict("#2", 0, "too late: it has come")).state == "gone"
    assert table(Evict("#1", 0, "its process is gone")).unpark == (A, B)
    verdict = table(barrier.Arrive(A, 3, "0")).value
    assert verdict == barrier.Broken("a party died before it arrived: its process is gone", (("", "1"),))


def test_a_barrier_stays_broken_for_those_who_come_while_a_witness_lives() -> None:
    """Whoever comes late looks at those who were there: if one lives it is told why, if none does it begins afresh."""
    table = gathered(A, B)
    table(Leave(A, 0, "timed out"))
    late = barrier.Arrive(C, 2, "c")
    outcome = table(late)
    assert (outcome.state, outcome.watch, outcome.then) == (WAITING, ("a",), late._replace(sure=True))
    assert table(outcome.then).state == "broken"
    assert table(barrier.Arrive(Ticket("a", 2), 2, "a")).state == "broken"
    table(Evict("a"))
    assert table.states(late, barrier.Arrive(D, 2, "d")) == [WAITING, WAITING]
    assert table.record.broken is None


def test_in_a_scope_of_one_run_a_barrier_stays_broken() -> None:
    """Whoever comes late belongs to the run that broke it, and is told, though nobody who was there is left."""
    table = gathered(A, B)
    table.states(Leave(A, 0, "timed out"), Evict("a"))
    assert table(barrier.Arrive(C, 2, "c", lasting=True)).state == "broken"


def test_whoever_aborts_is_a_witness() -> None:
    """A barrier where nobody waited is broken for as long as the one lives who broke it."""
    table = Table(barrier.BARRIER)
    table(barrier.Abort("no more data", "a"))
    assert table(barrier.Arrive(B, 2)).watch == ("a",)
    assert table(barrier.Arrive(A, 2)).state == "broken"


def test_parties_without_ranks_are_not_watched_before_they_come() -> None:
    """Nobody knows who will come, so nobody can be missed by rank."""
    table = Table(barrier.BARRIER)
    assert table(barrier.Arrive(A, 2)).watch == ()
    assert table(Evict("#1")).state == "gone"


# -- event


def test_a_waiter_let_go_stays_so_when_the_flag_is_cleared() -> None:
    """Whoever waited when the flag was set returns with it set, however late it wakes or times out."""
    table = Table(event.EVENT)
    table.states(event.Wait(A), event.Wait(B))
    assert table(event.Set()).unpark == (A, B)
    table(event.Clear())
    assert table.states(event.Wait(A), Leave(B, 0, "timed out"), event.Wait(C)) == ["set", "set", WAITING]


def test_a_crowd_looks_after_itself() -> None:
    """From a certain number of waiters on, a new one watches the oldest, so that the dead do not fill the record."""
    table = Table(event.EVENT)
    outcomes = [table(event.Wait(Ticket(f"s{number}", 1))) for number in range(event.CROWD + 1)]
    assert [outcome.watch for outcome in outcomes[-2:]] == [(), ("s0",)]


# -- once


def test_the_next_in_the_row_takes_over_from_a_dead_worker() -> None:
    """It alone is told, that it is the next attempt and what for; the dead worker's result comes too late."""
    table = Table(once.ONCE)
    assert table(once.Claim(A)).value == (1, "")
    table.states(once.Claim(B), once.Claim(C))
    assert table(Evict("a")).unpark == (B,)
    assert table(once.Claim(B)) == Outcome("yours", (2, "a"))
    assert table.states(once.Publish(A, "1"), once.Publish(C, "1")) == ["gone", "gone"]
    assert table(once.Publish(B, "2")).unpark == (C,)
    assert table(once.Claim(C)) == Outcome("done", "2")


def test_an_error_is_everybodys_until_somebody_retries() -> None:
    """A claim that retries makes a new attempt; nobody else's claim does."""
    table = Table(once.ONCE)
    table.states(once.Claim(A), once.Fail(A, "no"))
    assert table(once.Claim(B)) == Outcome("failed", "no")
    assert table(once.Claim(C, retry=True)).value == (2, "")
    assert table(once.Claim(B)).state == WAITING


def test_forgetting_drops_a_result_and_not_the_work() -> None:
    """A result can be made again; a running attempt goes on."""
    table = Table(once.ONCE)
    assert table.states(once.Claim(A), once.Forget(), once.Publish(A, "1")) == ["yours", "forgotten", "done"]
    table(once.Forget())
    assert table(once.Claim(B)).state == "yours"


def test_a_result_that_is_not_kept_is_owed_to_those_who_waited() -> None:
    """Whoever had claimed gets it, whenever it asks; whoever comes later starts anew; nothing stays behind."""
    table = Table(once.ONCE)
    table.states(once.Claim(A), once.Claim(B))
    assert table(once.Fail(A, "no", keep=False)).unpark == (B,)
    assert table(once.Claim(C)).value == (2, "")
    assert table.states(once.Claim(B), once.Claim(A), Leave(A), once.Claim(B)) == ["failed", "failed", "left", "failed"]
    assert table(Leave(B)) == Outcome("left", False)
    assert table.states(once.Publish(C, "1", keep=False), once.Claim(D)) == ["done", "yours"]
    assert table.states(Leave(D), Leave(C)) == ["left", "left"]
    assert once.ONCE.idle(table.record)


def test_a_creditor_that_died_is_owed_nothing() -> None:
    """Eviction drops its claim on a result, and with the last one the result."""
    table = Table(once.ONCE)
    table.states(once.Claim(A), once.Claim(B), once.Publish(A, "1", keep=False), Leave(A))
    assert table(Evict("b")) == Outcome("left", True)


# -- fence


def join(ticket: Ticket, writer: str = "", parties: int = 2) -> fence.Join:
    return fence.Join(ticket, ticket.session, parties, writer)


def test_a_turn_has_one_writer_and_all_get_its_value() -> None:
    """The first to sit writes; who comes back early queues for the next turn, which begins when all have left."""
    table = Table(fence.FENCE)
    again = Ticket("a", 2)
    assert table.states(join(A), join(B)) == ["yours", WAITING]
    assert table(fence.Publish(A, "1")).unpark == (B,)
    assert table.states(Leave(A), join(again), join(B)) == ["done", WAITING, "done"]
    assert table(Leave(B)).unpark == (again,)
    assert table(join(again)).value == (1, "")


def test_another_writer_may_be_asked_for_in_the_next_turn() -> None:
    """A party that is a turn ahead is not held to the parameters of the turn that still runs."""
    table = Table(fence.FENCE)
    table.states(join(A, "a"), join(B, "a"), fence.Publish(A, "1"), Leave(A))
    assert table(join(Ticket("a", 2), "b")).state == WAITING
    table(Leave(B))
    assert table.states(join(Ticket("b", 2), "b"), join(Ticket("a", 2), "b")) == ["yours", WAITING]


@pytest.mark.parametrize(("writer", "parties"), [("b", 2), ("", 3)])
def test_other_parameters_within_a_turn_are_a_mismatch(writer: str, parties: int) -> None:
    """Parties that do not agree on the writer or their number are told, with the turn's own parameters."""
    table = Table(fence.FENCE)
    table(join(A))
    assert table(join(B, writer, parties)) == Outcome("mismatch", (2, ""))


def test_a_dead_writer_is_succeeded() -> None:
    """The next one who waits writes, and knows that something may be half-written."""
    table = Table(fence.FENCE)
    table.states(join(A), join(B))
    assert table(Evict("a")).unpark == (B,)
    assert table(join(B)) == Outcome("yours", (0, "a"))
    assert table(fence.Publish(A, "1")).state == "gone"


def test_a_writer_asked_for_is_not_succeeded() -> None:
    """Its death fails the turn for all, and the next turns until somebody new comes under its label."""
    table = Table(fence.FENCE)
    assert table.states(join(B, "a"), join(A, "a")) == [WAITING, "yours"]
    assert table(Evict("a")).unpark == (B,)
    assert table.states(join(B, "a"), Leave(B)) == ["died", "died"]
    assert table.states(join(Ticket("b", 2), "a"), Leave(Ticket("b", 2))) == ["died", "died"]
    revived = fence.Join(C, "a", 2, "a")
    assert table(revived) == Outcome("yours", (2, "a"))


def test_the_death_of_a_party_between_two_turns_is_noticed() -> None:
    """Who waits for the next turn watches the party that is away; its death does not hold the others up."""
    table = Table(fence.FENCE)
    table.states(join(A), join(B), fence.Publish(A, "1"), Leave(A), Leave(B))
    table.states(join(Ticket("a", 2)), fence.Publish(Ticket("a", 2), "2"), Leave(Ticket("a", 2)))
    assert "b" in table(join(Ticket("a", 3))).watch
    assert table(Evict("b")).unpark == (Ticket("a", 3),)
    assert table(join(Ticket("a", 3))).state == "yours"


def test_a_writer_asked_for_that_nobody_saw_is_watched_by_its_rank() -> None:
    """If it dies before it comes, the turn fails for all who wait."""
    table = Table(fence.FENCE)
    assert table(fence.Join(A, "0", 2, "1")) == Outcome(WAITING, 0, watch=("#1",), position=1)
    assert table(Evict("#1")).unpark == (A,)
    assert table(fence.Join(A, "0", 2, "1")).state == "died"


def test_a_party_that_died_before_it_came_holds_nobody_up() -> None:
    """Who waits for the next turn watches it by its rank, and goes on without it; it may come back all the same."""
    table = Table(fence.FENCE)
    again = Ticket("a", 2)
    table.states(fence.Join(A, "0", 2), fence.Publish(A, "1"), Leave(A))
    assert table(fence.Join(again, "0", 2)).watch == ("a", "#1")
    assert table(Evict("#1")).unpark == (again,)
    assert table(fence.Join(again, "0", 2)).state == "yours"
    assert table.states(fence.Publish(again, "2"), fence.Join(B, "1", 2)) == ["done", "done"]


def test_a_result_outlives_its_makers_in_a_scope_of_one_run_only() -> None:
    """Whoever comes later gets it there; elsewhere it is another run that comes, if nobody who had it lives."""
    for lasting in (True, False):
        table = Table(fence.FENCE)
        first, late = fence.Join(A, "0", 2, lasting=lasting), fence.Join(B, "1", 2, lasting=lasting)
        table.states(first, fence.Publish(A, "1"), Leave(A))
        if lasting:
            assert table.states(Evict("a"), late) == ["left", "done"]
            continue
        outcome = table(late)
        assert (outcome.state, outcome.watch, outcome.then) == (WAITING, ("a",), late._replace(sure=True))
        assert table.states(Evict("a"), late) == ["left", "yours"]


def test_a_result_is_told_to_those_who_come_while_its_maker_lives() -> None:
    """Having looked at the maker, who lives, a late party gets the result; the maker queues for the next turn."""
    table = Table(fence.FENCE)
    table.states(join(A), fence.Publish(A, "1"), Leave(A))
    assert table(join(Ticket("a", 2))).then is None
    assert table(join(B)).state == "done"


def test_a_writer_gives_signs_of_life() -> None:
    """Those who wait are told how many there were; only the writer gives them, and each counts once."""
    table = Table(fence.FENCE)
    table.states(join(A), join(B))
    assert table.states(fence.Beat(A, 1), fence.Beat(A, 1), fence.Beat(B, 7)) == ["beating", "beating", "gone"]
    assert table(join(B)).value == 1


def test_a_time_out_that_comes_too_late_learns_the_result() -> None:
    """Leaving a settled turn tells its value, so that no party falls a turn behind the others."""
    table = Table(fence.FENCE)
    table.states(join(A), join(B), fence.Publish(A, "1"))
    assert table(Leave(B, 0, "timed out")) == Outcome("done", "1")
