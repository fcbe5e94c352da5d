"""The cluster itself: it works as a real one does, is private, and leaves nothing behind."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launchers import slurm as clusters
from launchers.conftest import demand
from launchers.journal import Journal
from launchers.launching import MODULE
from launchers.slurm import NODES, Slurm
from patience import until

STARTER = """
import sys
from launchers.slurm import cluster
from patience import until
with cluster() as slurm:
    slurm.sbatch("exec sleep 1000")
    until(lambda: slurm.ask("squeue", "-h", "-o", "%T") == "RUNNING")
    print(slurm.directory, flush=True)
    sys.stdin.read()
"""


def test_jobs_run_on_both_nodes(slurm: Slurm) -> None:
    """A step over two nodes runs on both."""
    done = slurm.run("srun", "-N2", "printenv", "SLURMD_NODENAME")
    assert (sorted(done.stdout.split()), done.returncode) == (list(NODES), 0), done.stderr


@pytest.mark.parametrize(("script", "state"), [("exit 0", "COMPLETED"), ("exit 3", "FAILED")])
def test_a_job_is_waited_for(slurm: Slurm, script: str, state: str) -> None:
    """A batch job's end and what it said are known after the wait."""
    job = slurm.sbatch(f"echo said; {script}")
    assert slurm.wait(job) == {state}
    assert slurm.output(job) == "said\n"


def test_a_requeued_job_runs_again(slurm: Slurm, journal: Journal) -> None:
    """A job that is requeued keeps its id, and is told that it was restarted."""
    place = shlex.join((*MODULE, "launchers.place", str(journal.path)))
    job = slurm.sbatch(f'{place}; [ -n "$SLURM_RESTART_COUNT" ] || sleep 1000')
    until(lambda: bool(journal.read()))
    slurm.requeue(job)
    assert slurm.wait(job) == {"COMPLETED"}, slurm.output(job)
    assert [entry["job"] for entry in journal.read()] == [["slurm", job, None, run, "interlock"] for run in (0, 1)]


def test_the_cluster_is_cleared(slurm: Slurm) -> None:
    """After a test no job runs and no node is drained, so that no test can hold up another."""
    job = slurm.sbatch("sleep 1000")
    until(lambda: slurm.states(job) == {"RUNNING"})
    slurm.ask("scontrol", "update", "nodename=n2", "state=drain", "reason=a test")
    assert slurm.nodes()["n2"] == "drained"
    slurm.clear()
    assert (slurm.states(job), slurm.nodes()) == ({"CANCELLED"}, dict.fromkeys(NODES, "idle"))


def test_only_this_machine_can_reach_it(slurm: Slurm) -> None:
    """Whatever the daemons listen on belongs to the loopback interface."""
    inodes = {inode for pid, _ in processes_of(slurm.directory) for inode in sockets(pid)}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    listening = [row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes]
    assert set(listening) == {"0100007F"}
    assert len(listening) == 1 + len(NODES)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_behind(slurm: Slurm, end: signal.Signals) -> None:
    """Daemons, running jobs and files go when whoever started the cluster ends, even by SIGKILL."""
    with subprocess.Popen(
        [sys.executable, "-c", STARTER],
        env=slurm.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as starter:
        assert starter.stdout is not None
        directory = Path(starter.stdout.readline().strip())
        until(lambda: {name for _, name in processes_of(directory)} >= {"munged", "slurmctld", "slurmd", "sleep"})
        starter.send_signal(end)
        starter.communicate()
    until(lambda: not processes_of(directory) and not directory.exists())


def processes_of(directory: Path) -> list[tuple[int, str]]:
    """Pid and name of every process that knows of a directory from its command line or environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            known = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            name = (process / "comm").read_text().strip()
        except OSError:
            continue
        if bytes(directory) in known:
            found.append((int(process.name), name))
    return found


def sockets(pid: int) -> list[str]:
    """The inodes of a process's sockets."""
    links = [link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir()]
    return [str(link)[8:-1] for link in links if str(link).startswith("socket:[")]


def test_a_cluster_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that refuses its configuration is quoted, and what had started before it is ended."""
    monkeypatch.setattr(clusters, "_CONFIGURATION", clusters._CONFIGURATION + "NoSuchThing=1\n")
    with pytest.raises(AssertionError, match="NoSuchThing"), clusters.cluster():
        pass


def test_a_missing_program_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Slurm the tests say what to install; in continuous integration they fail."""
    monkeypatch.setattr(clusters, "_PROGRAMS", ("no-such-daemon",))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no no-such-daemon here: apt-get install slurm-wlm munge"):
        demand(clusters.missing())
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install"):
        demand(clusters.missing())
