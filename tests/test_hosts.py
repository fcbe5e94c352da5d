"""The hosts that other tests use: what they share, what is their own, and that nothing of them stays."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hosts import COHERENT, INCOHERENT, NODE_LOCAL, Host, cluster, missing
from launchers.conftest import demand

HOLD = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
TRY = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"


@pytest.fixture(params=[NODE_LOCAL, INCOHERENT, COHERENT], ids=["node-local", "incoherent", "coherent"])
def hosts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Host, ...]]:
    """Two hosts, for each kind of mount."""
    demand(missing())
    with cluster(tmp_path, "a", "b", kind=request.param) as found:
        (found[0].folder / "file").touch()
        yield found


def test_hosts_share_a_folder_and_nothing_else(hosts: tuple[Host, ...]) -> None:
    """Each has its own name and pids, and sees the folder at the same path, where this process sees nothing."""
    a, b = hosts
    a.python("import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('from a')", str(a.shared / "file"))
    assert b.python("import sys; print(open(sys.argv[1]).read())", str(b.shared / "file")) == "from a\n"
    assert [host.run("hostname").stdout for host in hosts] == ["a\n", "b\n"]
    assert int(b.python("import os; print(os.getpid())")) < 100
    assert list(a.shared.iterdir()) == []


def test_locks_reach_the_other_host_or_not(hosts: tuple[Host, ...], request: pytest.FixtureRequest) -> None:
    """flock excludes between hosts where it is forwarded, also while its host sleeps, until its holder or host dies."""
    a, b = hosts
    forwarded = "node-local" not in request.node.name
    for end in ("the holder", "the host"):
        program = a.start(sys.executable, "-c", HOLD, str(a.shared / "file"))
        assert program.stdout is not None
        assert program.stdout.readline() == "held\n"
        a.pause()
        assert _refused(b) is forwarded
        a.resume()
        if end == "the holder":
            program.kill()
        else:
            a.crash()
        assert program.wait(30) == -signal.SIGKILL
        assert not _refused(b)


def _refused(host: Host) -> bool:
    return host.run(sys.executable, "-c", TRY, str(host.shared / "file")).returncode != 0


def test_nothing_of_a_crashed_host_stays(hosts: tuple[Host, ...]) -> None:
    """Its processes are gone and so is its mount, and it may crash once more."""
    a, _ = hosts
    shell = a.start("sh", "-c", "sleep 1000 & echo $!; wait")
    assert shell.stdout is not None
    shell.stdout.readline()
    root = f"/proc/{a.first}/root"
    assert os.path.exists(root)
    a.crash()
    a.crash()
    assert not os.path.exists(root)
    assert str(a.shared) not in Path("/proc/self/mountinfo").read_text()
