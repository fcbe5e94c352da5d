"""Two hosts measure together, over mounts that do to locks what real clusters do."""

from __future__ import annotations

import json
import os
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from doctor.conftest import begin, finish, left, probe
from hosts import COHERENT, INCOHERENT, NODE_LOCAL, Host
from interlock.stores import _mount
from patience import until

Up = Callable[..., tuple[Host, ...]]
PINNED = [".interlock-mount.json"]


def until_met(host: Host) -> str:
    """Wait until a probe is at work between hosts: its leader has told somebody to do something. Returns who leads."""
    folder = host.folder / ".interlock-doctor-x"
    until((folder / "leader.9").exists)
    leader: str = json.loads((folder / "leader.0").read_text())["host"]
    return leader


def test_locks_that_stay_on_one_host_are_found_out(up: Up) -> None:
    """Each host's own locks are in order, and both hosts hold them at once: hard links it is, said by both alike."""
    a, b = up("a", "b", kind=(*NODE_LOCAL, "-o", "attr_timeout=0"))
    one, other = probe(a, b)
    assert one == other
    assert (one["code"], one["primitive"], one["decided"], one["pinned"]) == (0, "claims", True, True)
    assert set(one["hosts"]) == {"a", "b"}
    for primitive in ("ofd", "flock", "lockf"):
        assert "a and b" in one["refused"][primitive] or "b and a" in one["refused"][primitive]
        assert [alone[primitive] for alone in one["measured"]["hosts"].values()] == [None, None]
    assert left(a.folder) == PINNED


def test_locks_without_fresh_bytes_are_refused(up: Up) -> None:
    """flock excludes between these hosts, but a descriptor that was open before reads what its host has cached."""
    a, b = up("a", "b", kind=INCOHERENT)
    found, _ = probe(a, b)
    assert found["primitive"] == "claims"
    assert "reads old bytes under the lock" in found["refused"]["flock"]
    assert "two processes of" in found["refused"]["ofd"]
    (between,) = found["measured"]["between"].values()
    assert between["hard_links"] is between["exclusive_create"] is None
    assert between["appended_s"] > 0.1 > between["round_trip_s"] > 0


def test_locks_that_exclude_and_are_coherent_may_be_used(up: Up) -> None:
    """Where flock reaches the other host and reads are fresh, it is what to use; people are told so in words."""
    hosts = up("a", "b", kind=COHERENT)
    for code, out, _ in map(finish, [begin(host, "--probe", "x") for host in hosts]):
        assert code == 0
        assert "verdict: use flock locks" in out
        assert "POSIX locks (lockf): two processes of" in out
        assert f"--url 'file://{hosts[0].shared}'" in out
    verdict = _mount.verdict_for(str(hosts[0].folder))
    assert verdict is not None
    assert (verdict["primitive"], verdict["file_system"]) == ("flock", "fuse")
    assert set(verdict["refused"]) == {"ofd", "lockf"}


def test_one_host_of_several_does_not_decide(up: Up) -> None:
    """What one host sees of a mount that others share says nothing about them: nothing is pinned, exit code 1."""
    (a,) = up("a", kind=NODE_LOCAL)
    code, out, _ = finish(begin(a))
    assert code == 1
    assert "verdict: not decided" in out
    assert "--probe NAME" in out
    assert left(a.folder) == []


def test_three_hosts_are_measured_two_by_two(up: Up) -> None:
    """Every pair is measured, those without the leader too; one host that will not pin is enough not to."""
    hosts = up("a", "b", "c", kind=COHERENT)
    programs = [begin(host, "--probe", "x", "--parties", "3", "--no-pin") for host in hosts[:1]]
    programs += [begin(host, "--probe", "x", "--parties", "3") for host in hosts[1:]]
    for code, out, _ in map(finish, programs):
        assert code == 0
        assert out.splitlines()[2].count(" - ") == 3
        assert f"--url 'file://{hosts[0].shared}?primitive=flock'" in out
    assert left(hosts[0].folder) == []


@pytest.mark.parametrize("victim", ["leader", "guest"])
def test_a_killed_side_does_not_hang_the_other(up: Up, victim: str) -> None:
    """Who is left says that it heard nothing, gives up in time, and tidies up; nothing of the killed one runs on."""
    hosts = {host.name: host for host in up("a", "b", kind=COHERENT)}
    programs = {name: begin(host, "--probe", "x", "--timeout", "3") for name, host in hosts.items()}
    leader = until_met(hosts["a"])
    killed = leader if victim == "leader" else ({*hosts} - {leader}).pop()
    programs.pop(killed).kill()
    code, out, err = finish(*programs.values())
    assert (code, out) == (2, "")
    assert "has said nothing for" in err
    assert left(hosts["a"].folder) == []
    assert hosts[killed].run("pgrep", "-f", "interlock doctor").stdout == ""


def test_an_interrupted_side_tells_the_other(up: Up) -> None:
    """After Ctrl-C both end at once, the other one with the reason, and the directory is as it was."""
    hosts = up("a", "b", kind=COHERENT)
    programs = [begin(host, "--probe", "x") for host in hosts]
    until_met(hosts[0])
    programs[0].send_signal(signal.SIGINT)
    assert finish(programs[0])[0] == 130
    code, _, err = finish(programs[1])
    assert code == 2
    assert "has given up: it was interrupted" in err
    assert left(hosts[0].folder) == []


def test_a_paused_host_wakes_up_to_an_ended_probe(up: Up) -> None:
    """A host that sleeps too long is given up; when it wakes it says so, and leaves nothing behind."""
    a, b = up("a", "b", kind=COHERENT)
    programs = [begin(host, "--probe", "x", "--timeout", "3") for host in (a, b)]
    until_met(a)
    b.pause()
    code, _, err = finish(programs[0])
    assert code == 2
    assert "has said nothing for" in err
    assert left(a.folder) == []
    b.resume()
    code, _, err = finish(programs[1])
    assert code == 2
    assert any(word in err for word in ("ended without a verdict", "has said nothing", "did not come back"))
    assert left(a.folder) == []


def test_hosts_are_reached_by_ssh(up: Up, tmp_path: Path) -> None:
    """`--hosts a,b` starts the same probe on each and prints the verdict that both came to."""
    a, b = up("a", "b", kind=COHERENT)
    done = _by_ssh(tmp_path, a, b)
    assert done.returncode == 0, done.stderr
    assert "verdict: use flock locks" in done.stdout
    assert left(a.folder) == PINNED


def test_a_host_that_is_not_reached_is_named(up: Up, tmp_path: Path) -> None:
    """The error says which host failed, and what it said; the other one gives up in time."""
    (a,) = up("a", kind=COHERENT)
    done = _by_ssh(tmp_path, a, asked="a,nowhere")
    assert done.returncode == 2
    assert "nowhere: no such host (could it be reached?)" in done.stderr
    assert "a: nobody else came within 8 s" in done.stderr
    assert left(a.folder) == []


def _by_ssh(tmp_path: Path, *hosts: Host, asked: str = "a,b") -> subprocess.CompletedProcess[str]:
    """``interlock doctor --hosts``, with a stand-in for ssh that goes into a host's namespaces."""
    ssh = tmp_path / "ssh"
    cases = "\n".join(f"  {host.name}) first={host.first} ;;" for host in hosts)
    ssh.write_text(
        f"#!/bin/sh\ncase $1 in\n{cases}\n  *) echo no such host >&2; exit 255 ;;\nesac\n"
        'exec nsenter --target "$first" --uts --pid --mount --wdns=/ -- sh -c "$2"\n'
    )
    ssh.chmod(ssh.stat().st_mode | stat.S_IXUSR)
    command = [sys.executable, "-m", "interlock", "doctor", str(hosts[0].shared), "--hosts", asked, "--ssh", str(ssh)]
    return subprocess.run(
        [
            *command,
            "--program",
            f"{shlex.quote(sys.executable)} -m interlock",
            "--timeout",
            "8" if "nowhere" in asked else "30",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env=dict(os.environ),
    )
