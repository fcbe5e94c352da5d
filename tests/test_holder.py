"""Who a holder is, and whether it lives: judged on real processes, in real namespaces where those can be had."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import interlock.holder
from interlock.holder import ARGS_LIMIT, TEXT_LIMIT, Holder, span

NEIGHBOUR = """
import sys
from interlock.holder import Holder
print(Holder.here().to_json(), flush=True)
sys.stdin.read()
"""
LEADERLESS = """
import ctypes, os, sys, threading
from interlock.holder import Holder
def remain():
    while open("/proc/self/stat").read().split()[2] != "Z":
        pass
    print(Holder.here().to_json(), flush=True)
    sys.stdin.read()
threading.Thread(target=remain).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)  # exit(2): of this thread alone
"""
ADA = Holder(
    host="node7",
    pid=4121,
    user="ada",
    start=812_004,
    boot_id="9c1b",
    pid_ns="4026531836",
    scheduler="slurm",
    job_id="812",
    array_index=3,
    restart=1,
    cluster="alps",
    node="n7",
    rank=2,
    size=8,
    argv=("/opt/bin/python", "train.py", "--lr", "0.1"),
    cwd="/scratch/ada",
    note="fold 3",
    since=1_700_000_000.5,
)


@contextlib.contextmanager
def running(script: str, *prefix: str) -> Iterator[subprocess.Popen]:
    """A Python process that ends with its standard input, or with this block."""
    command = [*prefix, sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.stdin.close()
                process.kill()


@pytest.fixture
def neighbour() -> Iterator[tuple[subprocess.Popen, Holder]]:
    """Another process of this machine, and the holder it gave itself out for."""
    with running(NEIGHBOUR) as process:
        yield process, Holder.from_json(process.stdout.readline())


def unshare(*flags: str) -> tuple[str, ...]:
    """The command that runs another one in new namespaces; skips where the system does not permit that."""
    command = ("unshare", *flags)
    try:
        probe = subprocess.run([*command, "true"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if probe.returncode:
        pytest.skip(f"not permitted: {probe.stderr.strip()}")
    return command


def verdicts(script: str, *prefix: str) -> list[str]:
    """The lines a script prints about processes it sees."""
    done = subprocess.run([*prefix, sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()


# ---------------------------------------------------------------- is it alive?


def test_a_running_process_is_alive(neighbour):
    """A process that waits for its input is alive, and so is the one that asks."""
    _, holder = neighbour
    assert holder.same_machine()
    assert holder.process_state().state == "alive"
    assert Holder.here().process_state().state == "alive"


def test_a_stopped_process_is_alive(neighbour):
    """SIGSTOP takes nothing away from a holder: it may go on at any moment."""
    process, holder = neighbour
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert holder.process_state() == ("alive", f"process {process.pid} runs (state T)")


def test_a_zombie_is_dead(neighbour):
    """A killed process whose parent has not looked still has its pid and start time, but is dead."""
    process, holder = neighbour
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    state, proof = holder.process_state()
    assert (state, "state Z" in proof) == ("dead", True)


def test_a_finished_process_is_dead(neighbour):
    """A pid that nobody has any more proves the death."""
    process, holder = neighbour
    process.communicate()
    assert holder.process_state() == ("dead", f"there is no process {process.pid}")


def test_a_reused_pid_is_dead(neighbour):
    """A process with the same pid that began at another time is another one."""
    _, holder = neighbour
    state, proof = replace(holder, start=holder.start - 1).process_state()
    assert (state, "reused" in proof) == ("dead", True)


def test_without_a_start_time_only_absence_proves(neighbour):
    """A holder that could not tell when it began is unknown while its pid is in use, and dead afterwards."""
    process, holder = neighbour
    undated = replace(holder, start=0)
    assert undated.process_state().state == "unknown"
    process.communicate()
    assert undated.process_state().state == "dead"


@pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64"), reason="the number of exit(2) is not known here")
def test_a_process_lives_on_without_its_first_thread():
    """The first thread's end makes the process look like a zombie; while another thread runs, it is not one."""
    with running(LEADERLESS) as process:
        holder = Holder.from_json(process.stdout.readline())
        assert holder.process_state() == ("alive", f"process {process.pid} runs (state Z)")


def test_another_boot_is_unknown(neighbour):
    """A rebooted machine and a second one of the same name cannot be told apart, so neither is a proof."""
    _, holder = neighbour
    state, proof = replace(holder, boot_id="another", pid=2**22 + 1).process_state()
    assert (state, "rebooted, or two machines" in proof) == ("unknown", True)
    state, proof = replace(holder, boot_id="another", host="node7", pid=2**22 + 1).process_state()
    assert (state, "runs on node7" in proof) == ("unknown", True)


@pytest.mark.parametrize("missing", ["boot_id", "pid_ns"])
def test_an_unnamed_machine_is_unknown(missing, monkeypatch):
    """A holder that could not name its machine is nowhere the same, not even where nobody can."""
    holder = replace(Holder.here(), **{missing: ""})
    assert not holder.same_machine()
    assert holder.process_state().state == "unknown"
    monkeypatch.setattr(interlock.holder, f"_{missing}", lambda: "")
    assert not holder.same_machine()
    assert Holder.here().process_state().state == "unknown"


def test_a_pid_no_kernel_gives_is_nobody_s():
    """A pid too large for the system call is a process that does not exist, not an error."""
    assert replace(Holder.here(), pid=2**40).process_state().state == "dead"


def test_another_pid_namespace_is_unknown():
    """A pid of a container means nothing outside: here it belongs to somebody else, or to nobody."""
    with running(NEIGHBOUR, *unshare("--pid", "--fork", "--kill-child")) as process:
        holder = Holder.from_json(process.stdout.readline())
        assert holder.pid == 1
        assert holder.boot_id == Holder.here().boot_id
        state, proof = holder.process_state()
    assert (state, "another pid namespace" in proof) == ("unknown", True)


def test_a_foreign_proc_proves_nothing():
    """In a container that sees its host's /proc, a pid there is somebody else's; the kernel's own answer holds."""
    script = f"""
import subprocess, sys
from interlock.holder import Holder
process = subprocess.Popen([sys.executable, "-c", {NEIGHBOUR!r}], stdin=-1, stdout=-1)
holder = Holder.from_json(process.stdout.readline().decode())
print(holder.same_machine(), holder.start > 0, holder.process_state().state)
process.communicate()
print(holder.process_state().state)
"""
    assert verdicts(script, *unshare("--pid", "--fork")) == ["True True unknown", "dead"]


def test_a_hidden_process_is_not_a_dead_one():
    """With `hidepid`, /proc denies other users' processes; the kernel's own answer does not."""
    script = """
import os, subprocess
from interlock.holder import Holder
subprocess.run(["mount", "-t", "proc", "-o", "hidepid=2", "proc", "/proc"], check=True)
holder = Holder.here()
if os.fork() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    print(os.path.exists(f"/proc/{holder.pid}"), holder.process_state().state, flush=True)
    os._exit(0)
os.wait()
"""
    assert verdicts(script, *unshare("--mount", "--pid", "--fork")) == ["False unknown"]


def test_shifted_clocks_prove_nothing():
    """In a time namespace every start time reads otherwise; that must not make a pid look reused."""
    script = f"""
from interlock.holder import Holder
holder = Holder.from_json({Holder.here().to_json()!r})
print(holder.same_machine(), holder.process_state().state, Holder.here().start)
"""
    assert verdicts(script, *unshare("--time", "--boottime", "1000", "--fork")) == ["True unknown 0"]


def test_a_process_may_be_called_anything():
    """A name with spaces and parentheses does not shift the fields behind it."""
    script = NEIGHBOUR.replace(
        "print(", "begun = Holder.here().start\nopen('/proc/self/comm', 'w').write(') Z 1 (')\nprint(begun)\nprint("
    )
    with running(script) as process:
        begun = int(process.stdout.readline())
        holder = Holder.from_json(process.stdout.readline())
        assert holder.start == begun > 0
        assert holder.process_state().state == "alive"


def test_a_forked_child_is_another_participant():
    """Nothing of the parent's identity survives a fork, and the child sees the parent alive."""
    parent = Holder.here()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, json.dumps([Holder.here().to_json(), parent.process_state().state]).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as answer:
        text, state = json.load(answer)
    os.waitpid(child, 0)
    assert (Holder.from_json(text).pid, state) == (child, "alive")
    assert Holder.from_json(text).start >= parent.start
    assert Holder.from_json(text).process_state().state == "dead"


# ---------------------------------------------------------------- the present process


def test_here_tells_the_present_process(monkeypatch):
    """What can be checked independently is what the system says."""
    monkeypatch.setenv("SLURM_JOB_ID", "812")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "alps")
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    before = time.time()
    holder = Holder.here(rank=2, size=8, note="fold 3")
    assert (holder.host, holder.pid, holder.cwd) == (os.uname().nodename, os.getpid(), os.getcwd())
    assert holder.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert os.readlink("/proc/self/ns/pid") == f"pid:[{holder.pid_ns}]"
    assert (holder.scheduler, holder.job_id, holder.cluster, holder.node) == ("slurm", "812", "alps", "n7")
    assert (holder.rank, holder.size, holder.note) == (2, 8, "fold 3")
    assert before <= holder.since <= time.time()


def test_start_is_counted_from_boot():
    """A process started between two looks at the clock since boot has a start time between them, to the tick."""
    ticks = os.sysconf("SC_CLK_TCK")
    earliest = int(time.clock_gettime(time.CLOCK_BOOTTIME) * ticks)
    with running(NEIGHBOUR) as process:
        latest = int(time.clock_gettime(time.CLOCK_BOOTTIME) * ticks)
        assert earliest <= Holder.from_json(process.stdout.readline()).start <= latest


def test_the_rank_is_the_launcher_s_unless_given(monkeypatch):
    """A launched process knows its rank; a lone one has none; what the caller says goes first."""
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (Holder.here().rank, Holder.here().size) == (None, None)
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert (Holder.here().rank, Holder.here().size) == (5, 8)
    assert (Holder.here(rank=1, size=2).rank, Holder.here(rank=1, size=2).size) == (1, 2)


def test_the_user_is_named_by_the_environment_then_the_account_then_the_number(monkeypatch):
    """A container's process without an account still has a name of some kind."""
    monkeypatch.setenv("LOGNAME", "ada")
    assert Holder.here().user == "ada"
    monkeypatch.delenv("LOGNAME")
    monkeypatch.setenv("USER", "grace")
    assert Holder.here().user == "grace"
    monkeypatch.delenv("USER")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert Holder.here().user == "root"
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    assert Holder.here().user == "4000000000"


def test_a_removed_directory_has_no_name(monkeypatch, tmp_path):
    """A process whose working directory is gone can still say who it is."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert Holder.here().cwd == ""


@pytest.mark.parametrize(
    "args",
    [
        ["python", "x" * 1000, "end"],
        ["a"] * 1000,
        ["y" * 399, "zz", "end"],
        ["y" * 400, "end"],
        ["y" * 400, ""],
        [""] * 21,
        ["z" * 20] * 20,
    ],
    ids=lambda args: f"{len(args)}x{max(map(len, args))}",
)
def test_what_is_published_is_bounded(monkeypatch, args):
    """However long the command and the note, the holder stays small, says what is cut off, and can be read back."""
    monkeypatch.setattr(sys, "orig_argv", args)
    holder = Holder.here(note="n" * 1000)
    assert len(holder.argv) <= ARGS_LIMIT
    assert sum(map(len, holder.argv)) <= TEXT_LIMIT
    assert list(holder.argv) == args or holder.argv[-1].endswith("…")
    assert (len(holder.note), holder.note[-1]) == (TEXT_LIMIT, "…")
    assert Holder.from_json(holder.to_json()) == holder


def test_a_short_command_is_published_whole(monkeypatch):
    """Nothing is cut off that is within the limits."""
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "--lr", "0.1"])
    assert Holder.here().argv == ("python", "train.py", "--lr", "0.1")
    monkeypatch.setattr(sys, "orig_argv", ["z" * 20] * 20)
    assert Holder.here().argv == ("z" * 20,) * 20


# ---------------------------------------------------------------- JSON


@given(
    note=st.text(max_size=TEXT_LIMIT),
    argv=st.lists(st.text(max_size=20), max_size=ARGS_LIMIT).map(tuple),
    rank=st.none() | st.integers(0, 10**6),
    since=st.floats(0, 4e9),
)
def test_a_holder_comes_back_as_it_was(note, argv, rank, since):
    """Every member survives the way through one line of ASCII, whatever the text."""
    holder = replace(ADA, note=note, argv=argv, rank=rank, since=since)
    line = holder.to_json()
    assert line.isascii()
    assert "\n" not in line
    assert Holder.from_json(line) == holder


def test_every_member_is_written():
    """No member is forgotten on the way out or in."""
    assert {f.name for f in fields(Holder)} == set(json.loads(ADA.to_json()))
    assert Holder.from_json(ADA.to_json()) == ADA


def test_later_versions_can_be_read():
    """Members we do not know are passed over, and those that are missing have their defaults."""
    assert Holder.from_json('{"host": "node7", "pid": 1, "gpu": [0, {"x": null}]}') == Holder(host="node7", pid=1)


MEMBERS = [f.name for f in fields(Holder)]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NEAR_MISSES = st.builds(
    lambda changes: json.dumps(json.loads(replace(Holder.here(), note="x").to_json()) | changes),
    st.dictionaries(st.sampled_from(MEMBERS), JSON_VALUES, max_size=4),
)


@settings(max_examples=400)
@given(st.text() | JSON_VALUES.map(json.dumps) | NEAR_MISSES)
def test_hostile_text_is_refused_or_harmless(text):
    """Whatever was written, it is a `ValueError` or a holder that can be described, judged and written back."""
    try:
        holder = Holder.from_json(text)
    except ValueError:
        return
    assert holder.describe().isprintable()
    assert holder.process_state().proof.isprintable()
    assert Holder.from_json(holder.to_json()) == holder


@pytest.mark.parametrize(
    "member",
    [
        '"pid": true', '"pid": "1"', '"pid": 1.0', '"pid": -1', '"pid": null', f'"pid": {10**30}',
        f'"pid": {"9" * 5000}', '"host": null', '"host": 1', f'"host": "{"h" * 401}"', '"rank": -1', '"rank": false',
        '"since": NaN', '"since": 1e999', '"since": -1', f'"since": {10**400}', '"since": 1e12', '"since": true',
        '"argv": "ls"', '"argv": [1]', '"argv": {"0": "ls"}', f'"argv": {json.dumps(["a"] * 21)}', '"job_id": 812',
        '"note": ["x"]', f'"gpu": {"[" * 100_000}',
    ],
    ids=lambda member: member[:24],
)  # fmt: skip
def test_a_wrong_shape_is_refused(member):
    """Each member has one type and a range; nothing is converted."""
    with pytest.raises(ValueError, match=r"."):
        Holder.from_json(f'{{"host": "node7", "pid": 1, {member}}}')


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"host": "node7"}', '{"pid": 1}', "{", "\0", '"host pid"'])
def test_what_is_no_holder_is_refused(text):
    """Half a line, another type, or an object without a host and a pid is not a holder."""
    with pytest.raises(ValueError, match=r"."):
        Holder.from_json(text)


# ---------------------------------------------------------------- words


@pytest.fixture
def _greenwich(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_greenwich")
def test_a_holder_is_described_in_one_sentence():
    """Everything a person wants to know, in the order they ask for it."""
    assert ADA.describe(now=ADA.since + 200) == (
        "ada@node7 pid 4121 (python train.py --lr 0.1), Slurm job 812_3, rank 2 of 8, "
        "since 22:13:20 (3 min 20 s), note: fold 3"
    )


@pytest.mark.usefixtures("_greenwich")
@pytest.mark.parametrize(
    ("ago", "words"),
    [
        (-5, "node7 pid 1, since 22:13:20"),
        (0, "node7 pid 1, since 22:13:20 (0 s)"),
        (7200, "node7 pid 1, since 2023-11-14 22:13:20 (2 h 00 min)"),
    ],
)
def test_the_beginning_is_told_as_far_as_it_is_plain(ago, words):
    """Another day has its date; a clock that is behind the holder's gives no negative duration."""
    assert Holder(host="node7", pid=1, since=1_700_000_000.0).describe(now=1_700_000_000.0 + ago) == words


def test_what_is_absent_is_not_mentioned():
    """A holder that knows little is described shortly."""
    assert Holder(host="node7", pid=4121).describe() == "node7 pid 4121"
    assert Holder(host="node7", pid=4121, rank=0).describe() == "node7 pid 4121, rank 0"
    assert Holder(host="node7", pid=4121, scheduler="moab", job_id="5").describe() == "node7 pid 4121, moab job 5"


def test_a_long_command_is_shortened():
    """A description stays on a line or two."""
    words = Holder(host="node7", pid=1, argv=("/bin/sh", "-c", "x" * 300)).describe()
    assert words.startswith("node7 pid 1 (sh -c xxx")
    assert words.endswith("x…)")
    assert len(words) < 100


@pytest.mark.parametrize("member", ["host", "user", "scheduler", "job_id", "argv", "note"])
def test_no_text_acts_on_the_terminal(member):
    """Colours, cursor moves, new lines and reversed text are shown as escapes, whichever member they came in."""
    text = "a\x1b[2J\n\r\t\0\x7f\x9b\u202e\u2028\ufeff\ud800b"
    holder = replace(ADA, **{member: (text,) if member == "argv" else text})
    assert r"a\x1b[2J\n\r\t\x00\x7f\x9b\u202e\u2028\ufeff\ud800b" in holder.describe()
    assert holder.process_state().proof.isprintable()


def test_other_alphabets_are_shown_as_they_are():
    """Escaping is for what cannot be seen, not for what is not ASCII."""
    assert replace(ADA, user="žofie", note="训练 ✓").describe().endswith("note: 训练 ✓")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"), (0.0001, "0 s"), (0.85, "850 ms"), (0.9994, "999 ms"), (0.9996, "1 s"), (1, "1 s"), (12.4, "12 s"),
        (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3599.6, "1 h 00 min"), (7500, "2 h 05 min"),
        (172_799, "47 h 59 min"), (172_800, "2 days"), (3 * 86_400, "3 days"), (-3, "-3 s"), (float("inf"), "inf s"),
    ],
)  # fmt: skip
def test_a_duration_is_told_in_two_units_at_most(seconds, words):
    """No unit overflows into the next, and no value is too odd to be told."""
    assert span(seconds) == words
