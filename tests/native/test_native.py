"""The algorithms of the core without Python: explored, killed at every step, and hammered under the sanitizers.

The three programs beside this file are built by the C compiler into a directory of their own. The explorer is shown to
see: each of the broken twins of `twins`, a core without one necessary line, has to be found out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from launchers.conftest import demand
from native.twins import TWINS, Twin

HERE = Path(__file__).parent
CORE = HERE.parents[1] / "csrc"
STEPS = ("-DINTERLOCK_STEP=1", "-DSPINS=2", "-DYIELDS=2")
EXPLORER = (*STEPS, "-U_FORTIFY_SOURCE", "-Dsched_yield=explorer_yield")
ALGORITHMS = ("admission", "row", "clearing", "barrier", "once", "object")
KERNEL = ("life", "park")
SCENARIOS = (
    "lock2", "lock3", "lock4", "rwlock", "rwlock4", "downgrade", "semaphore", "try", "late", "due", "due-again",
    "barrier", "moved", "barrier-late", "barrier-crash", "crash", "rwcrash", "semaphore-crash", "sweepers", "news",
    "evict", "evict-semaphore", "evict-crash", "retire", "retire-semaphore", "retire-crash",
    "once", "once-handed", "once-retry", "once-forget", "once-late", "once-owed", "once-given-up", "once-crash",
    "once-evict", "once-retire", "crash-late", "semaphore-crash-late", "barrier-crash-late", "once-crash-late",
)  # fmt: skip
SEARCHED = (
    "lock2", "lock3", "rwlock4", "downgrade", "crash", "sweepers", "barrier", "moved", "retire-crash",
    "once", "once-handed", "once-retry", "once-forget", "once-given-up", "once-crash", "once-evict", "once-retire",
)  # fmt: skip
ACTS = (
    "life", "claim", "acquire", "read", "wait", "wait to read", "give up", "release", "unread", "leave", "downgrade",
    "retire", "barrier",
    "once work", "once retry", "once settle value", "once settle error", "once settle handed", "once leave work",
    "once leave row", "once wait value", "once wait error", "once wait handed", "once wait left", "once forget",
    "once retire",
)  # fmt: skip
OBJECTS = {"lock": 8000, "rwlock": 8000, "semaphore": 8000, "barrier": 500, "once": 8000}


def compiler() -> str | None:
    return shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc")


def missing() -> str:
    if not sys.platform.startswith("linux"):
        return "the core needs Linux"
    return "" if compiler() else "no C compiler"


def compile_(source: Path, made: Path, *flags: str) -> Path:
    """Compile one file of C, with every warning an error."""
    strict = ("-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers")
    done = run([compiler(), "-std=gnu11", "-O1", "-g", *strict, *flags, f"-I{CORE}", "-c", source, "-o", made])
    assert done.returncode == 0, done.stdout
    return made


def link(objects: list[Path], made: Path, *flags: str) -> Path:
    done = run([compiler(), *flags, *objects, "-pthread", "-o", made])
    assert done.returncode == 0, done.stdout
    return made


def build(program: str, into: Path, *flags: str, parts: tuple[str, ...] = ALGORITHMS + KERNEL) -> Path:
    """Build a program of this directory with parts of the core; their objects stay beside it."""
    sources = [*sorted(HERE.glob(f"{program}*.c")), *(CORE / f"{part}.c" for part in parts)]
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(lambda each: compile_(each, into / f"{each.stem}.o", *flags), sources))
    return link(objects, into / program, *flags)


def run(command: list[object]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )


def run_all(commands: list[list[object]]) -> None:
    """Run them two at a time; what fails is shown in full."""
    with ThreadPoolExecutor(2) as pool:
        failed = [done.stdout for done in pool.map(run, commands) if done.returncode]
    assert not failed, "\n\n".join(failed)


@pytest.fixture(scope="module")
def explorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demand(missing())
    return build("explore", tmp_path_factory.mktemp("explorer"), *EXPLORER, parts=ALGORITHMS)


@pytest.fixture(scope="module")
def crasher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demand(missing())
    return build("crash", tmp_path_factory.mktemp("crasher"), *STEPS)


def test_random_schedules(explorer: Path) -> None:
    """Thirty thousand schedules of each scenario keep the rules: exclusion, tokens, news, order, no wake-up lost."""
    run_all([[explorer, "random", scenario, 1, 30_000] for scenario in SCENARIOS])


def test_every_schedule_with_two_preemptions(explorer: Path) -> None:
    """The same for every schedule in which at most twice somebody else goes on, or dies, amid an operation."""
    run_all([[explorer, "search", scenario, 2] for scenario in SEARCHED])


@pytest.mark.slow
def test_a_million_random_schedules(explorer: Path) -> None:
    """The same with a million schedules of each scenario."""
    run_all([[explorer, "random", scenario, 2, 1_000_000] for scenario in SCENARIOS])


def explore(twin: Twin, sound: Path, into: Path) -> str:
    """Build a broken twin beside the sound explorer's objects and explore it: empty if it is found out."""
    texts = {part: (CORE / f"{part}.c").read_text() for part in ALGORITHMS}
    found = [part for part, text in texts.items() for _ in range(text.count(twin.sound))]
    assert len(found) == 1, f"{twin.name}: {twin.sound!r} is not in the core once"
    source = into / f"{twin.name}.c"
    source.write_text(texts[found[0]].replace(twin.sound, twin.broken))
    others = [each for each in sound.parent.glob("*.o") if each.stem != found[0]]
    broken = compile_(source, into / f"{twin.name}.o", *EXPLORER, "-w")
    done = run([link([broken, *others], into / twin.name), "random", twin.scenario, 1, 1_000_000])
    return "" if done.returncode == 1 else f"{twin.name}: {done.stdout}"


def test_broken_twins_are_found_out(explorer: Path, tmp_path: Path) -> None:
    """The explorer sees what it is for: a core that lacks one line of its argument breaks a rule."""
    with ThreadPoolExecutor(2) as pool:
        missed = [seen for seen in pool.map(lambda twin: explore(twin, explorer, tmp_path), TWINS) if seen]
    assert not missed, "\n".join(missed)


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_an_end_at_every_step(crasher: Path, end: str) -> None:
    """Who is killed, or stopped, at any step of any operation leaves the object to the others, who are told the truth
    about the death; and who is only stopped keeps what it has."""
    run_all([[crasher, end, act] for act in ACTS])


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_sanitizers(sanitizer: str, tmp_path: Path) -> None:
    """Six threads on each object give the sanitizers nothing to report."""
    demand(missing())
    checks = (f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all")
    hammer = build("threads", tmp_path, *checks)
    run_all([[hammer, what, 6, operations] for what, operations in OBJECTS.items()])


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_sanitizers_for_long(sanitizer: str, tmp_path: Path) -> None:
    """The same with eight threads and a hundred thousand operations each."""
    demand(missing())
    hammer = build("threads", tmp_path, f"-fsanitize={sanitizer}")
    run_all([[hammer, what, 8, 100_000 if what != "barrier" else 5_000] for what in OBJECTS])
