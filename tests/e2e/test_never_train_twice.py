"""The page on training once: its job scripts run as they stand, its commands print what it shows, its programs run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import hosts
import interlock
from interlock import completion
from interlock.stores import open_store
from interlock.world import Job
from launchers.conftest import demand
from launchers.launching import Done, clean_environment
from launchers.slurm import Slurm, cluster, missing
from patience import until

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "examples" / "cluster"
SCRIPTS = ("train_array.slurm", "train_array.lsf", "old_style.sh")
PAGE = (ROOT / "docs" / "howto" / "never-train-twice.md").read_text()
BLOCKS = [block for _, block in re.findall(r"^```(python|bash)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)]
EXCERPTS = [block for block in BLOCKS if block.startswith("# examples/")]
PROGRAMS = [block for block in BLOCKS if block not in EXCERPTS]
COMMANDS = re.findall(r"^\$ (.*)\n((?:(?!\$ |```).*\n)*)", PAGE, re.MULTILINE)
STORY = [(command, said) for command, said in COMMANDS if not command.startswith("interlock doctor")]
LONG = "baseline digits 0.7"
CONFIGURATIONS = [LONG, *(f"baseline {dataset} 0.01" for dataset in ("cifar10", "cifar100", "stl10", "svhn"))]
BJOBS = """#!/bin/sh
printf '%s\\n' "$4" >>"$ASKED"
start=$(date '+%b %e %H:%M') end=$(date -d "+$MINUTES minutes" '+%b %e %H:%M')
echo "${4%[*}|0|RUN|-|$start|$end L|$(uname -n)" | sed "s/|0|/|$(expr "$4" : '.*\\[\\(.*\\)\\]')|/"
"""


class Cluster:
    """The example's directory as its scripts see it, and what they say and leave."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "configurations").write_text("".join(f"{line}\n" for line in CONFIGURATIONS))
        self.variables = {
            "INTERLOCK_URL": f"file://{directory}/locks",
            "WEIGHTS": f"{directory}/weights",
            "CONFIGURATIONS": f"{directory}/configurations",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
        }

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        """Start a command in the example's directory, with pipes."""
        return subprocess.Popen(
            command,
            cwd=CLUSTER,
            env=clean_environment(**self.variables, **variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str, **variables: str) -> Done:
        """Run a command to its end; standard error is part of what it says."""
        process = self.start(*command, **variables)
        said, _ = process.communicate(timeout=60)
        return Done(command, process.returncode, said)

    def done_by(self, configuration: str) -> Job | None:
        """The job that has trained a configuration to its end."""
        strategy, dataset, ratio = configuration.split()
        name = interlock.key(strategy=strategy, dataset=dataset, ratio=float(ratio))
        done = completion.find(open_store(self.variables["INTERLOCK_URL"]), name)
        return done.holder.job if done is not None else None


@pytest.fixture
def place(tmp_path: Path) -> Cluster:
    """A scratch directory with nothing in it but five configurations, one of which takes seconds."""
    return Cluster(tmp_path)


@pytest.fixture
def slurm() -> Iterator[Slurm]:
    """The private cluster."""
    demand(missing())
    with cluster() as running:
        yield running


def course(said: str, configuration: str) -> tuple[list[int], list[int], int]:
    """After which epochs a training began, and was stopped, and how often it came to its end."""
    begun, stopped = (
        [int(epoch) for epoch in re.findall(rf"^{configuration} {word} after epoch (\d+)$", said, re.MULTILINE)]
        for word in ("begins", "stops")
    )
    return begun, stopped, said.count(f"{configuration} is trained\n")


def beginnings(said: str) -> list[int]:
    """After which epochs the longest training began. All others began once; each came to its end, and once only."""
    begun = {}
    for line in CONFIGURATIONS:
        begun[line], _, ends = course(said, line)
        assert ends == 1, said
        assert min(begun[line]) == 0, said
    longest = begun.pop(LONG)
    assert all(epochs == [0] for epochs in begun.values()), said
    return longest


def test_slurm_trains_each_configuration_once(slurm: Slurm, place: Cluster) -> None:
    """The job script as it stands: ten tasks over five configurations, the longest of which is requeued on the way;
    each is trained to its end once, and when all is submitted again there is nothing left to do."""
    variables = place.variables | {"PATH": f"{Path(sys.executable).parent}:{slurm.variables['PATH']}"}

    def submit(tasks: str) -> str:
        options = (f"--array={tasks}", f"--chdir={CLUSTER}", f"--output={place.directory}/%A_%a.out")
        done = slurm.run("sbatch", "--parsable", *options, str(CLUSTER / SCRIPTS[0]), **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def said(job: str) -> dict[str, str]:
        return {path.stem: path.read_text() for path in place.directory.glob(f"{job}_*.out")}

    def training() -> list[str]:
        return [task for task, text in said(job).items() if f"{LONG} begins" in text]

    job = submit("0-9")
    until(lambda: bool(training()), situation=lambda: str(said(job)))
    (task,) = training()
    slurm.requeue(task)
    slurm.wait(job)
    together = "".join(said(job).values())
    assert len(beginnings(together)) == 2
    codes = set(re.findall(r" ExitCode=(\S+)", slurm.ask("scontrol", "--oneliner", "show", "job", job)))
    assert codes == {"0:0", "75:0"}, together

    job = submit("0-4")
    assert slurm.wait(job) == {"COMPLETED"}
    assert all("interlock: skipped: " in text for text in said(job).values())
    assert len(said(job)) == 5


def test_lsf_trains_each_configuration_once(place: Cluster) -> None:
    """The job script as it stands, under a stub of LSF: the longest training is stopped before its job's run limit, and
    goes on in the next array; each configuration is trained to its end once."""
    stub = place.directory / "bjobs"
    stub.write_text(BJOBS)
    stub.chmod(0o755)
    asked = place.directory / "asked"
    place.variables |= {"PATH": f"{place.directory}:{place.variables['PATH']}", "ASKED": str(asked)}

    def submit(job: str, tasks: Sequence[int], minutes: str) -> list[Done]:
        def run(task: int) -> Done:
            variables = {"LSB_JOBID": job, "LSB_JOBINDEX": str(task), "LSB_JOBNAME": f"train[{task}]"}
            limit = "600" if task % len(CONFIGURATIONS) else minutes
            return place.run("bash", SCRIPTS[1], MINUTES=limit, **variables)

        with ThreadPoolExecutor(5) as pool:
            return list(pool.map(run, tasks))

    first = submit("812", range(1, 9), minutes="2")
    assert 143 in (codes := {done.returncode for done in first})
    assert codes <= {0, 75, 143}
    second = submit("813", (5, 6), minutes="600")
    assert {done.returncode for done in second} == {0}
    together = "".join(done.stdout for done in first + second)
    assert 0 in beginnings(together)
    assert "this job's time limit comes in" in together
    assert place.done_by(LONG) == Job("lsf", "813", 5)
    assert "812[5]" in asked.read_text().split()


def test_old_scripts_and_the_new_line_keep_each_other_out(place: Cluster) -> None:
    """Whichever of the two trains a configuration, the other one leaves, and goes on later where the first stopped."""
    folder = place.directory / "weights" / "baseline" / "digits" / "0.7"
    folder.mkdir(parents=True)
    new = (
        *("interlock", "run", "--key", f"out={folder}", "--if-held", "skip", "--pidfile", f"{folder}/.training_lock"),
        *("--", "python", "train.py", *LONG.split(), "--out", str(folder)),
    )
    old = (f"./{SCRIPTS[2]}", *LONG.split())
    said = ""
    for one, other, refusal in ((new, old, "skipped: "), (old, new, "not obtained in ")):
        running = place.start(*one)
        assert running.stdout is not None
        said += running.stdout.readline()
        assert said.count("begins") == 1 + (one == old), said
        refused = place.run(*other)
        assert refused.returncode == 75
        assert refusal in refused.stdout
        assert f"{folder}/.training_lock" in refused.stdout
        if one == new:
            running.terminate()
        said += running.communicate(timeout=60)[0]
        assert running.returncode == (143 if one == new else 0)
        assert not (folder / ".training_lock").exists()
    begun, stopped, ends = course(said, LONG)
    assert (begun, ends) == ([0, *stopped], 1)
    assert len(stopped) == 1


def test_a_superseded_training_does_not_replace_the_checkpoint(place: Cluster) -> None:
    """The training program refuses to write under an older token than that of the checkpoint."""
    train = ("python", "train.py", *CONFIGURATIONS[1].split(), "--out", str(place.directory / "out"))
    assert place.run(*train, INTERLOCK_TOKEN="2").returncode == 0
    checkpoint = place.directory / "out" / "checkpoint.json"
    checkpoint.write_text(newest := '{"epoch": 1, "loss": 0.5}')
    late = place.run(*train, INTERLOCK_TOKEN="1")
    assert late.returncode != 0
    assert "interlock.errors.Superseded" in late.stdout
    assert checkpoint.read_text() == newest


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_are_in_order(script: str) -> None:
    """shellcheck finds nothing to say about them."""
    demand("" if shutil.which("shellcheck") else "no shellcheck here: apt-get install shellcheck")
    done = subprocess.run(["shellcheck", script], cwd=CLUSTER, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_the_page_shows_is_in_the_examples() -> None:
    """Word for word."""
    assert len(EXCERPTS) == 5
    for excerpt in EXCERPTS:
        file, _, text = excerpt.removeprefix("# ").partition("\n")
        assert text in (ROOT / file).read_text()


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_programs_of_the_page(place: Cluster, program: str) -> None:
    """Each one runs, and the last checkpoint is that of the last epoch."""
    path = place.directory / "program.py"
    path.write_text(program)
    root = str(place.directory / "data")
    done = place.run("env", f"--chdir={place.directory}", "python", path.name, AWARE_DATA_ROOT=root)
    assert done.returncode == 0, done.stdout
    left = [path.read_text() for path in place.directory.glob("weights/*/*/*/checkpoint.json")]
    assert (done.stdout, left) == (("trains\n", []) if "TrainingLock" in program else ("", ['{"epoch": 10}']))


@pytest.fixture
def told(place: Cluster) -> Iterator[Callable[[str], str]]:
    """Runs a command of the page where some are at work, and some have died; returns what it says."""
    holder = ("--key", "strategy=baseline", "--key", "dataset=cifar10", "--key", "ratio=0.5")
    running = place.start("interlock", "run", *holder, "--", "sh", "-c", "echo ready; exec sleep 60")
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    with subprocess.Popen("true") as ended:
        ended.wait()
    files = {
        "baseline/digits/1": str(os.getpid()),
        "baseline/cifar100/1": str(ended.pid),
        "augmented/digits/0.5": "4711 node12",
    }
    for folder, content in files.items():
        lock = place.directory / "weights" / folder / ".training_lock"
        lock.parent.mkdir(parents=True)
        lock.write_text(f"{content}\n")
    shutil.copy(CLUSTER / "train.py", place.directory)

    yield lambda command: place.run("env", f"--chdir={place.directory}", "bash", "-c", command).stdout

    running.terminate()
    running.communicate(timeout=60)


def test_the_story_of_the_page(told: Callable[[str], str], place: Cluster) -> None:
    """Every command but the doctor's, one after the other, says what the page shows, but for who and when."""
    assert len(STORY) == 6
    for command, said in STORY:
        assert alike(told(command), str(place.directory)) == alike(said, "/scratch/ann"), command


def test_the_doctor_of_the_page(tmp_path: Path) -> None:
    """Two hosts with locks of their own come to the verdict of the page, and one host alone comes to none."""
    demand(hosts.missing())
    ((_, said),) = [pair for pair in COMMANDS if pair not in STORY]
    kind = (*hosts.NODE_LOCAL, "-o", "attr_timeout=0")
    with hosts.cluster(tmp_path, "node7", "node8", kind=kind) as pair:
        doctor = (sys.executable, "-m", "interlock", "doctor", str(pair[0].shared))
        alone = pair[0].run(*doctor)
        assert alone.returncode == 1
        assert "verdict: not decided" in alone.stdout
        for process in [host.start(*doctor, "--probe", "monday") for host in pair]:
            found = process.communicate(timeout=60)[0]
            assert alike(found, str(pair[0].shared), hosts=True) == alike(said, "/scratch/ann", hosts=True)


def alike(said: str, root: str, *, hosts: bool = False) -> list[str]:
    """The lines of what was said, but for where, who, when, how long, and how wide its columns are."""
    said = re.sub(r" on \w+ \(\S+\)", " on FILE SYSTEM", said.replace(root, "ROOT"))
    said = re.sub(r"(\S+@)?\S+ pid \d+( \([^)]*\))?, since [\d:]+ \([^)]*\)", "WHO", said)
    said = re.sub(r"-?\d+ h \d\d min|\d+ min \d\d s|-?\b[\d.]+ (ms|s|days)\b", "SOME TIME", said)
    said = re.sub(r"process \d+( runs \(state \w\))?", r"PROCESS\1", said)
    said = re.sub(r"node\d", "HOST", said) if hosts else said
    return [re.sub(r"  +", "  ", line) for line in said.splitlines()]
