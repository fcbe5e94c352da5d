"""What LSF, PBS, Grid Engine and Kubernetes prove: real answers of theirs, printed by stubs."""

from __future__ import annotations

import json
import time
from calendar import timegm
from collections.abc import Callable
from dataclasses import replace

import pytest

from interlock import schedulers
from interlock.holder import Holder, Life
from interlock.schedulers._run import read_ctime
from interlock.world import Job
from schedulers.conftest import Stubs, in_time, recorded

Ask = Callable[[Holder], Life]


# ---------------------------------------------------------------- LSF


def on_lsf(began: str = "Mar  3 16:46", **members: object) -> Holder:
    """A holder that began some seconds after such a time."""
    since = read_ctime(began, until=time.time())
    assert since is not None
    told = {"host": "it-c05b10.example.org", "pid": 1, "scheduler": "lsf", "job_id": "261871", "since": since + 30}
    return Holder(**(told | members))  # type: ignore[arg-type]


LSF_STATES = {
    **dict.fromkeys(("RUN", "PROV", "USUSP", "SSUSP", "PEND", "PSUSP", "WAIT"), "alive"),
    **dict.fromkeys(("DONE", "EXIT"), "dead"),
    **dict.fromkeys(("UNKWN", "ZOMBI", "POST_ERR", "NEW"), "unknown"),
}


@pytest.mark.parametrize(("word", "state"), LSF_STATES.items())
def test_lsf_s_states(stubs: Stubs, ask: Ask, word: str, state: str) -> None:
    """Each of them runs, has ended, or says that LSF itself does not know."""
    stubs.says("bjobs", recorded("bjobs-done").replace("DONE", word))
    assert ask(on_lsf()).state == state
    assert stubs.called("bjobs")[-1] == "261871"


def test_lsf_s_proof(stubs: Stubs, ask: Ask) -> None:
    """It names job, end and times."""
    stubs.says("bjobs", recorded("bjobs-done"))
    holder = on_lsf()
    then = time.strftime("%Y-%m-%d %H:%M", time.localtime(holder.since))
    assert ask(holder).proof in (
        f"LSF job 261871 of {then} ended DONE at {then}", "LSF job 261871 of 16:46 ended DONE at 16:46",
    )  # fmt: skip


REASONS = {
    "TERM_RUNLIMIT: job killed after reaching LSF run time limit": "dead",
    "TERM_OWNER: job killed by owner": "dead",
    "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit": "dead",
    "TERM_FORCE_OWNER: job killed by owner without time for cleanup": "unknown",
    "TERM_REMOVE_HUNG_JOB: job removed from LSF": "unknown",
    "TERM_UNKNOWN: unknown reason": "unknown",
}


@pytest.mark.parametrize(("reason", "state"), REASONS.items(), ids=lambda text: text.partition(":")[0])
def test_a_job_that_lsf_gave_up_is_unknown(stubs: Stubs, ask: Ask, reason: str, state: str) -> None:
    """bkill -r and REMOVE_HUNG_JOBS_FOR make a job EXIT while nobody hears of its host."""
    stubs.says("bjobs", recorded("bjobs-done").replace("DONE|-", f"EXIT|{reason}"))
    assert ask(on_lsf()).state == state


def test_lsf_s_years_are_not_guessed(stubs: Stubs, ask: Ask) -> None:
    """Times without a year: a run that seems to have begun after the holder may be years older, and proves nothing."""
    for word in ("DONE", "RUN"):
        stubs.says("bjobs", recorded("bjobs-done").replace("DONE", word))
        holder = on_lsf()
        assert ask(replace(holder, since=holder.since - 3600)).state == "unknown"
    stubs.says("bjobs", recorded("bjobs-done"))
    holder = on_lsf()
    assert ask(replace(holder, since=holder.since + 3600)).state == "unknown"
    stubs.says("bjobs", recorded("bjobs-done").replace("Mar  3 16:46", "-"))
    assert ask(holder) == ("unknown", "LSF job 261871 ended DONE, but bjobs does not tell when")


def test_lsf_s_hosts_tell_its_jobs_apart(stubs: Stubs, ask: Ask) -> None:
    """A job on another host is another cluster's or another run; one on several ends for certain on the first only."""
    text = recorded("bjobs-run")
    stubs.says("bjobs", text)
    first, second = (on_lsf("Nov 19 12:57", job_id="5182892", host=host) for host in ("it-bigboy", "it-c05b10"))
    assert (ask(first).state, ask(second).state) == ("alive", "alive")
    assert ask(replace(first, host="it-c01b14")).state == "unknown"
    stubs.says("bjobs", text.replace("RUN", "EXIT").replace("Nov 20 12:57 L", "Nov 19 12:59"))
    assert (ask(first).state, ask(second).state) == ("dead", "unknown")


def test_a_task_of_lsf_is_asked_for_by_its_index(stubs: Stubs, ask: Ask) -> None:
    """Only its own line is believed."""
    stubs.says("bjobs", recorded("bjobs-done").replace("|0|", "|7|"))
    assert ask(on_lsf(array_index=7)).state == "dead"
    assert stubs.called("bjobs")[-1] == "261871[7]"
    assert ask(on_lsf(array_index=8)).state == "unknown"


def test_what_lsf_has_forgotten_is_unknown(stubs: Stubs, ask: Ask) -> None:
    """After CLEAN_PERIOD nobody knows how it ended."""
    stubs.says("bjobs", complaint=recorded("bjobs-not-found"), code=255)
    assert ask(on_lsf()) == ("unknown", "bjobs: Job <261871> is not found")


def test_lsf_s_run_limit_is_an_end(stubs: Stubs) -> None:
    """L marks a limit; an estimate ends nothing, and a job without either has no end."""
    job = Job("lsf", "5182892")
    soon = time.localtime(time.time() + 3600)
    text = recorded("bjobs-run").replace("Nov 20 12:57", time.strftime("%b %e %H:%M", soon))
    stubs.says("bjobs", text)
    assert schedulers.ends_at(job) == time.mktime((*soon[:5], 0, 0, 0, -1))
    for other in (text.replace(" L|", " E|"), text.replace(" L|", " X|"), text.replace("RUN", "DONE")):
        stubs.says("bjobs", other)
        assert schedulers.ends_at(job) is None


# ---------------------------------------------------------------- PBS


ON_PBS = Holder(
    "node1299.cluster.example.com", 1, scheduler="pbs", job_id="4732778.login02", since=in_time("2024-03-12 13:05")
)
PBS_STATES = {
    **dict.fromkeys("RSUEQHTWB", "alive"),
    **dict.fromkeys("FX", "dead"),
    **dict.fromkeys("MZ", "unknown"),
}


def pbs(**attributes: object) -> str:
    """The recorded job with other attributes; None leaves one out."""
    told = json.loads(recorded("qstat-pbs"))
    (job,) = told["Jobs"].values()
    job.update(attributes)
    for name in [name for name, value in job.items() if value is None]:
        del job[name]
    return json.dumps(told)


@pytest.mark.parametrize(("letter", "state"), PBS_STATES.items())
def test_pbs_s_states(stubs: Stubs, ask: Ask, letter: str, state: str) -> None:
    """Each of them runs, has ended, or is for another server to say."""
    stubs.says("qstat", pbs(job_state=letter))
    assert ask(ON_PBS).state == state
    assert stubs.called("qstat") == ["-x", "-f", "-F", "json", "4732778.login02"]


def test_pbs_s_proof(stubs: Stubs, ask: Ask) -> None:
    """It names job, status and times; the number alone names the job, too."""
    stubs.says("qstat", recorded("qstat-pbs"))
    words = "PBS job 4732778.login02 of 2024-03-12 10:27 ended with status 0 at 2024-03-13 13:10"
    assert ask(ON_PBS) == ("dead", words)
    assert ask(replace(ON_PBS, job_id="4732778")).state == "dead"


@pytest.mark.parametrize(
    ("attributes", "state"),
    [
        ({"Exit_status": 271}, "dead"), ({"Exit_status": -11}, "unknown"), ({"Exit_status": None}, "unknown"),
        ({"Exit_status": "0"}, "unknown"), ({"Exit_status": True}, "unknown"), ({"exec_host": None}, "unknown"),
        ({"exec_host": "node7/0+node1299/0"}, "unknown"), ({"exec_host": "node1299/0*48+node7/0"}, "dead"),
        ({"ctime": "Wed Mar 13 10:27:52 2024"}, "dead"), ({"ctime": None}, "unknown"), ({"stime": None}, "unknown"),
        ({"stime": "Tue Mar 12 14:04:41 2024"}, "unknown"), ({"mtime": "Tue Mar 12 12:04:41 2024"}, "unknown"),
    ],
    ids=str,
)  # fmt: skip
def test_what_pbs_must_tell_of_an_end(stubs: Stubs, ask: Ask, attributes: dict[str, object], state: str) -> None:
    """A status from the holder's own host, and times that are the holder's; a later job of that id is proof as well."""
    stubs.says("qstat", pbs(**attributes))
    assert ask(ON_PBS).state == state


def test_an_ill_quoted_name_makes_no_second_state(stubs: Stubs, ask: Ask) -> None:
    """A user can write the name of a job, but no attribute by it."""
    name = '"Job_Name": "example_job_48h.pbs"'
    stubs.says("qstat", pbs(job_state="R").replace(name, '"Job_Name": "x", "job_state": "F"'))
    state, proof = ask(ON_PBS)
    assert (state, "a key stands twice" in proof) == ("unknown", True)


def test_pbs_s_walltime_is_an_end(stubs: Stubs) -> None:
    """It counts from the start of a job that runs."""
    job = Job("pbs", "4732778.login02")
    stubs.says("qstat", pbs(job_state="R"))
    assert schedulers.ends_at(job) == in_time("2024-03-12 13:04") + 41 + 48 * 3600
    for attributes in ({"Resource_List": {}}, {"Resource_List": None}, {"stime": None}, {"job_state": "F"}):
        stubs.says("qstat", pbs(**({"job_state": "R"} | attributes)))
        assert schedulers.ends_at(job) is None


# ---------------------------------------------------------------- Grid Engine


ON_SGE = Holder(
    "c6320-5wszm62", 1, scheduler="sge", job_id="1000000", cluster="p6444", since=in_time("2016-04-16 20:41")
)


@pytest.fixture
def _sge(stubs: Stubs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGE_CLUSTER_NAME", "p6444")
    stubs.says("qstat", complaint=recorded("qstat-sge-gone"), code=1)
    stubs.says("qacct", recorded("qacct-sge"))


@pytest.mark.usefixtures("_sge")
@pytest.mark.parametrize(
    ("wrong", "state"),
    [
        ({}, "dead"), ({"host": "other"}, "unknown"), ({"cluster": "p1"}, "unknown"), ({"job_id": "2"}, "unknown"),
        ({"since": in_time("2016-04-16 19:00")}, "unknown"), ({"since": in_time("2016-04-16 22:00")}, "unknown"),
        ({"array_index": 1}, "unknown"),
    ],
    ids=str,
)  # fmt: skip
def test_grid_engine_s_accounting(ask: Ask, wrong: dict[str, object], state: str) -> None:
    """A record proves the end of the run that the holder began in, on its host, in its cluster."""
    verdict = ask(replace(ON_SGE, **wrong))  # type: ignore[arg-type]
    assert verdict.state == state, verdict


@pytest.mark.usefixtures("_sge")
@pytest.mark.parametrize(
    ("failed", "state"), [("100 : assumedly after job", "dead"), ("19  : before writing exit_status", "unknown")]
)
def test_grid_engine_s_failures(stubs: Stubs, ask: Ask, failed: str, state: str) -> None:
    """A job that was killed is over; one whose host lost track of it may not be."""
    stubs.says("qacct", recorded("qacct-sge").replace("failed       0", f"failed       {failed}"))
    assert ask(ON_SGE).state == state


@pytest.mark.usefixtures("_sge")
def test_a_job_that_never_began_is_nobody_s(stubs: Stubs, ask: Ask) -> None:
    """An accounting record without times is of no run."""
    stubs.says("qacct", recorded("qacct-failed"))
    holder = replace(ON_SGE, job_id="5228838", host="node374", since=in_time("2015-07-16 19:49"))
    assert ask(holder).state == "unknown"


@pytest.mark.usefixtures("_sge")
@pytest.mark.parametrize(
    ("answer", "job", "submitted"),
    [("qstat-sge", "217940", "2018-05-22 23:39"), ("qstat-uge", "199666", "2019-02-27 17:42")],
)
def test_a_job_that_grid_engine_lists_is_alive(stubs: Stubs, ask: Ask, answer: str, job: str, submitted: str) -> None:
    """Unless it was submitted after the holder began, for then the id is used again."""
    stubs.says("qstat", recorded(answer))
    holder = replace(ON_SGE, job_id=job, since=in_time(submitted) + 60)
    assert ask(holder).state == "alive"
    verdict = ask(replace(holder, since=holder.since - 3600))
    assert (verdict.state, f"submitted at {submitted}" in verdict.proof) == ("dead", True)


@pytest.mark.usefixtures("_sge")
def test_a_task_may_be_over_before_its_array_is(stubs: Stubs, ask: Ask) -> None:
    """qstat knows the array, and qacct the tasks that have ended."""
    stubs.says(
        "qstat", recorded("qstat-sge").replace("217940", "8").replace("May 22 23:39:55 2018", "Sep 27 07:41:44 2024")
    )
    stubs.says("qacct", recorded("qacct-gcs"))
    holder = replace(ON_SGE, host="master", job_id="8", array_index=97, since=in_time("2024-09-27 07:42"))
    assert ask(holder).state == "dead"
    assert stubs.called("qacct") == ["-j", "8", "-t", "97"]
    assert ask(replace(holder, array_index=99)).state == "alive"
    assert ask(replace(holder, since=holder.since - 3600)).state == "dead", "another array has the id by now"


# ---------------------------------------------------------------- Kubernetes


IN_POD = Holder(
    "memtest", 1, scheduler="kubernetes", job_id="memtest", cluster="default",
    since=float(timegm((2016, 1, 19, 16, 10, 6))),
)  # fmt: skip


def pod(**status: object) -> str:
    """The recorded pod with another status."""
    told = json.loads(recorded("kubectl-terminated"))
    told["status"].update(status)
    return json.dumps(told)


GONE = json.loads(recorded("kubectl-terminated"))["status"]["containerStatuses"]


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (recorded("kubectl-terminated"), "dead"),
        (recorded("kubectl-lost"), "unknown"),
        (pod(phase="Running", containerStatuses=[*GONE, {"state": {"running": {}}}]), "alive"),
        (pod(phase="Running", initContainerStatuses=[{"state": {"running": {}}}]), "alive"),
        (pod(phase="Pending", containerStatuses=None), "alive"),
        (pod(phase="Failed", containerStatuses=[{"state": {"running": {}}}]), "unknown"),
        (pod(phase="Failed", containerStatuses=[]), "unknown"),
        (recorded("kubectl-terminated").replace("2016-01-19T16:10:04Z", "2016-01-19T17:10:04Z"), "unknown"),
        (recorded("kubectl-terminated").replace("2016-01-19T16:10:17Z", "2016-01-19T15:10:17Z"), "unknown"),
        (recorded("kubectl-terminated").replace('"default"', '"other"'), "unknown"),
    ],
    ids=["ended", "lost", "one runs", "init runs", "pending", "stale", "evicted", "later", "earlier", "elsewhere"],
)
def test_a_pod_is_over_when_all_its_containers_are(stubs: Stubs, ask: Ask, answer: str, state: str) -> None:
    """And its node has told so, of this very pod: names are given again."""
    stubs.says("kubectl", answer)
    assert ask(IN_POD).state == state


def test_a_container_that_its_node_has_lost_has_not_ended(stubs: Stubs, ask: Ask) -> None:
    """ContainerStatusUnknown is what a kubelet writes when it does not know; a made-up time changes nothing."""
    stubs.says(
        "kubectl", recorded("kubectl-lost").replace('"finishedAt": null', '"finishedAt": "2016-01-19T16:10:17Z"')
    )
    assert ask(IN_POD).state == "unknown"
    assert ask(IN_POD).proof.endswith("without its node having told how")


def test_a_pod_without_a_namespace_or_a_trace_is_unknown(stubs: Stubs, ask: Ask) -> None:
    """Its absence proves nothing, and without its namespace nobody can be asked."""
    stubs.says("kubectl", complaint=recorded("kubectl-not-found"), code=1)
    assert ask(IN_POD) == ("unknown", 'kubectl: Error from server (NotFound): pods "memtest" not found')
    assert "set $POD_NAMESPACE" in ask(replace(IN_POD, cluster="")).proof


def test_no_other_scheduler_tells_an_end(stubs: Stubs) -> None:
    """Grid Engine and Kubernetes are not asked for one, nor is anybody outside a job."""
    assert schedulers.ends_at(Job("sge", "1")) is None
    assert schedulers.ends_at(Job("kubernetes", "memtest")) is None
    assert schedulers.ends_at(Job("slurm", "1")) is None
    assert schedulers.ends_at() is None
