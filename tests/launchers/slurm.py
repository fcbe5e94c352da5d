"""A private Slurm cluster of two nodes on this machine, for tests of what only a real scheduler does.

Both nodes are this machine, each with its own slurmd. Everything lives in one temporary directory and listens on the
loopback interface only; the system's own munge and Slurm are neither read nor touched.

``slurm.run("srun", "-N2", ...)`` runs one of its commands, ``slurm.sbatch(script)`` submits, ``slurm.wait(job)`` waits
for the end of a job. ``slurm.environment`` is for whatever else talks to it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launchers.launching import MODULE, PATIENCE_S, Done, clean_environment, free_ports, launch
from patience import until

NODES = ("n1", "n2")
_PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch")
_ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"),
    *("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"),
}
_CONFIGURATION = """\
ClusterName=interlock
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
AuthInfo=socket={directory}/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmdLogFile={directory}/slurmd-%n.log
PlugStackConfig={directory}/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
NodeName={nodes} NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports} CPUs=8
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """What is missing for a cluster here, and how to get it; empty if nothing is."""
    absent = [name for name in _PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"no {', '.join(absent)} here: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "only root may start jobs of others, so slurmd must be run by root"


class Slurm:
    """The face of a cluster that `cluster` has started."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.variables = {"SLURM_CONF": str(directory / "slurm.conf"), "PATH": _path()}
        self.environment = clean_environment(**self.variables)

    def run(self, *command: str, **variables: str) -> Done:
        """Run a command to its end, with further variables in its environment."""
        return launch(command, **(self.variables | variables))[0]

    def ask(self, *command: str) -> str:
        """What a command that must succeed says."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command} failed:\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def sbatch(self, script: str, *options: str, **variables: str) -> str:
        """Submit a shell script; returns the job's id. All its tasks and restarts append to one `output`."""
        path = self.directory / f"script-{secrets.token_hex(4)}.sh"
        path.write_text(f"#!/bin/sh\n{script}\n")
        output = (f"--output={self.directory}/job-%A.out", "--open-mode=append")
        done = self.run("sbatch", "--parsable", *output, *options, str(path), **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def output(self, job: str) -> str:
        """What a job has said so far."""
        path = self.directory / f"job-{job}.out"
        return path.read_text() if path.exists() else ""

    def states(self, job: str) -> set[str]:
        """The states of a job, or of all tasks of an array."""
        lines = self.ask("scontrol", "--oneliner", "show", "job", job).splitlines()
        return {word.removeprefix("JobState=") for line in lines for word in line.split() if "JobState=" in word}

    def wait(self, job: str, timeout: float = PATIENCE_S) -> set[str]:
        """Wait for the end of a job, or of all tasks of an array; returns how they ended."""
        until(
            lambda: self.states(job) <= _ENDED, timeout, lambda: f"job {job} is {self.states(job)}\n{self.output(job)}"
        )
        return self.states(job)

    def requeue(self, job: str) -> None:
        """Stop a job that runs and let it begin again, without the two minutes that Slurm would wait by itself.

        A node refuses what was permitted in the second in which it was told to stop the job, hence one second.
        """
        self.ask("scontrol", "requeue", job)
        until(lambda: self.states(job) == {"PENDING"} and "completing" not in self.nodes().values())
        self.ask("scontrol", "update", f"jobid={job}", "starttime=now+1")

    @contextmanager
    def silent(self, daemon: str) -> Iterator[None]:
        """A daemon that does not answer while the block runs: ``slurmctld``, or a node's, as in ``slurmd-n1``."""
        pid = int((self.directory / f"{daemon}.pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def nodes(self) -> dict[str, str]:
        """Every node and its state."""
        return dict(line.split() for line in self.ask("sinfo", "-h", "-N", "-o", "%N %T").splitlines())

    def clear(self) -> None:
        """Cancel every job and resume every node; returns when the cluster is as it was in the beginning."""
        self.ask("scancel", "--user", "root")
        until(lambda: not self.ask("squeue", "--noheader"), PATIENCE_S, lambda: self.ask("squeue"))
        for node, state in self.nodes().items():
            if state != "idle":
                self.ask("scontrol", "update", f"nodename={node}", "state=resume")
        self.until_idle()

    def until_idle(self) -> None:
        """Wait until both nodes are ready for jobs; the controller does not answer at first."""

        def idle() -> bool:
            done = self.run("sinfo", "-h", "-N", "-o", "%N %T")
            return sorted(done.stdout.split()) == sorted(word for node in NODES for word in (node, "idle"))

        until(idle, PATIENCE_S, self.said)

    def said(self) -> str:
        """The ends of the daemons' logs."""
        return "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in sorted(self.directory.glob("*.log")))


@contextmanager
def cluster() -> Iterator[Slurm]:
    """A cluster that is ready for jobs, and gone with everything that runs on it when the block ends."""
    directory = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # a socket's path must be short
    directory.chmod(0o755)  # munged wants everybody to reach its socket
    slurm = Slurm(directory)
    with (
        (directory / "daemons.log").open("wb") as log,
        subprocess.Popen(
            [*MODULE, "launchers.daemons", str(directory), json.dumps(_configure(directory))],
            env=slurm.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # so that Ctrl-C is for the tests, which then end it
        ) as keeper,
    ):
        try:
            assert keeper.stdout is not None
            assert keeper.stdout.readline() == "started\n", slurm.said()
            slurm.until_idle()
            yield slurm
        finally:
            keeper.terminate()
            keeper.wait()
            shutil.rmtree(directory, ignore_errors=True)


def _configure(directory: Path) -> list[list[str]]:
    """Write what the daemons read; returns the commands that start them."""
    controller, *ports = free_ports(1 + len(NODES))
    configuration = directory / "slurm.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            directory=directory, controller=controller, nodes=",".join(NODES), ports=",".join(map(str, ports))
        )
    )
    (directory / "plugstack.conf").touch()
    for name in ("state", *NODES):
        (directory / name).mkdir()
    key = directory / "munge.key"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(128))
    files = {"socket": "munge.socket", "key-file": key.name, "pid-file": "munged.pid", "seed-file": "munge.seed"}
    munge = [f"--{option}={directory / name}" for option, name in (files | {"log-file": "munged.log"}).items()]
    return [
        ["munged", *munge],
        ["slurmctld", "-f", str(configuration)],
        *(["slurmd", "-f", str(configuration), "-N", node] for node in NODES),
    ]


def _path() -> str:
    """Daemons are where only root's path leads."""
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
