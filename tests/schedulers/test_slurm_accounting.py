"""What Slurm's accounting proves when its controller has forgotten a job: real answers of sacct, printed by stubs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from interlock.holder import Holder, Life
from schedulers.conftest import Stubs, recorded

Ask = Callable[[Holder], Life]
HOLDER = Holder("node7", 1, scheduler="slurm", job_id="1", cluster="interlock", node="n1", since=1_795_263_739.0)


@pytest.fixture(autouse=True)
def _forgotten(stubs: Stubs) -> None:
    stubs.says("squeue", complaint=recorded("squeue-forgotten"), code=1)
    stubs.says("sinfo", recorded("sinfo-up"))


@pytest.mark.parametrize(
    ("answer", "wrong", "state", "words"),
    [
        ("sacct-requeued", {}, "dead", "ended CANCELLED at"),
        ("sacct-running", {}, "alive", "runs"),  # both runs began within the clocks' margin: it may be either's
        ("sacct-node-fail", {"job_id": "6", "since": 1_795_264_291.0}, "unknown", "is NODE_FAIL"),
        ("sacct-array", {"job_id": "3", "array_index": 0}, "dead", "Slurm job 3_0 of"),
        ("sacct-array", {"job_id": "3", "array_index": 1}, "dead", "Slurm job 3_1 of"),
        ("sacct-array", {"job_id": "5"}, "dead", "ended FAILED"),
        ("sacct-array", {"job_id": "3", "array_index": 2}, "unknown", "nor does its accounting"),
        ("sacct-requeued", {"job_id": "2"}, "unknown", "nor does its accounting"),
        ("sacct-requeued", {"cluster": "alps"}, "unknown", "is of cluster alps, and this is interlock"),
        ("sacct-requeued", {"node": "n2"}, "unknown", "n2 is not one of its nodes, n1"),
        ("sacct-requeued", {"since": 1_795_200_000.0}, "dead", "is another one by now"),
        ("sacct-requeued", {"since": 1_795_300_000.0}, "unknown", "an older one of that id"),
    ],
)  # fmt: skip
def test_accounting_is_believed_about_the_holder_s_run(
    stubs: Stubs, ask: Ask, answer: str, wrong: dict[str, object], state: str, words: str
) -> None:
    """The run that went on when the holder began decides, if cluster and node are the holder's."""
    rows = recorded(answer)
    if "node" in wrong or answer == "sacct-array":
        stubs.says("sinfo", recorded("sinfo-up").splitlines()[0])
    stubs.says("sacct", rows)
    verdict = ask(replace(HOLDER, **wrong))  # type: ignore[arg-type]
    assert (verdict.state, words in verdict.proof) == (state, True), verdict


def test_the_run_that_goes_on_is_not_the_one_before(stubs: Stubs, ask: Ask) -> None:
    """Requeued after an hour, the job runs again; the first run's holder is dead and the second's alive."""
    rows = recorded("sacct-running").replace("1795263741", "1795267341").replace("1795263742", "1795267342")
    stubs.says("sacct", rows.replace("1795263745", "1795267345"))
    assert ask(HOLDER).state == "dead"
    assert "was requeued at" in ask(HOLDER).proof
    assert ask(replace(HOLDER, restart=1, since=HOLDER.since + 3610)).state == "alive"


def test_a_node_that_is_down_now_proves_nothing(stubs: Stubs, ask: Ask) -> None:
    """Accounting tells what the controller made of it; what ran on a node that is cut off may go on there."""
    stubs.says("sacct", recorded("sacct-requeued"))
    stubs.says("sinfo", recorded("sinfo-down"))
    assert ask(HOLDER).state == "unknown"
    assert ask(HOLDER).proof.endswith("but its node n1 is down: what ran there may go on unseen")
    stubs.says("sinfo", recorded("sinfo-down").replace("down", "idle*"))
    assert ask(HOLDER).state == "unknown"
    stubs.says("sinfo", complaint="slurm_load_node: Unable to contact slurm controller", code=1)
    assert ask(HOLDER).proof.endswith("but sinfo: slurm_load_node: Unable to contact slurm controller")


@pytest.mark.parametrize("state", ["idle", "mixed+drain", "ALLOCATED+DRAIN", "idle+powered_down", "mixed+completing"])
def test_a_node_that_answers_has_seen_the_end(stubs: Stubs, ask: Ask, state: str) -> None:
    """Drained, busy with others or switched off: what the job had there is gone."""
    stubs.says("sacct", recorded("sacct-requeued"))
    stubs.says("sinfo", f"n1  {state}\n")
    assert ask(HOLDER).state == "dead"


@pytest.mark.parametrize(
    "state",
    ["idle+not_responding", "down", "unknown", "future", "error", "idle*", "down+drain", "allocated+NOT_RESPONDING"],
)
def test_a_node_that_does_not_answer_has_not(stubs: Stubs, ask: Ask, state: str) -> None:
    """Every other word about a node leaves it open what runs there."""
    stubs.says("sacct", recorded("sacct-requeued"))
    stubs.says("sinfo", f"n1  {state}\n")
    assert ask(HOLDER).state == "unknown"


def test_without_accounting_a_forgotten_job_is_unknown(stubs: Stubs, ask: Ask) -> None:
    """Neither its absence nor accounting's is a proof."""
    stubs.says("sacct", complaint=recorded("sacct-disabled"), code=1)
    words = "Slurm does not know job 1 any more, and cannot look it up: sacct: Slurm accounting storage is disabled"
    assert ask(HOLDER) == ("unknown", words)
