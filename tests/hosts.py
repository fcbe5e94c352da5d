"""Hosts that share a directory: each sees one folder through a FUSE mount of its own, at the same path.

A host is a set of Linux namespaces with their own host name, pids and mounts. Its first process mounts the folder with
bindfs and then waits for the end of its standard input, so nothing of a host outlives whoever made it: when the first
process ends, the kernel kills the others, and the mount goes with the last of them. Nothing is mounted outside.

What the hosts' mounts do with kernel locks is chosen, and measured as follows (bindfs 1.14, FUSE 2.9):

- ``NODE_LOCAL``: every host answers lock requests itself, as a cluster does that is mounted with ``localflock``;
- ``INCOHERENT``: flock excludes between hosts, but a descriptor kept open reads what this host has cached;
- ``COHERENT``: flock excludes, and every read asks the folder; shared mappings do not exist.

::

    with cluster(tmp_path, "a", "b", kind=INCOHERENT) as (a, b):
        a.python("import sys; ...", str(a.shared))          # to its end, which must be a good one
        process = b.start("interlock", "run", "x", ...)     # beside the test
        process.kill(); b.pause(); b.resume(); b.crash()
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

NODE_LOCAL: tuple[str, ...] = ()
INCOHERENT = ("--multithreaded", "--enable-lock-forwarding")
COHERENT = (*INCOHERENT, "-o", "direct_io,attr_timeout=0,entry_timeout=0")

_LIBC = ctypes.CDLL(None, use_errno=True)
_FIRST = 'hostname "$1" && shift && bindfs "$@" && echo up && read -r end'


def missing() -> str:
    """Why no hosts can be made here, or an empty string; for `demand` of `launchers.conftest`."""
    if os.geteuid() != 0:
        return "only root may make hosts"
    absent = [name for name in ("bindfs", "unshare") if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed"
    return "" if os.path.exists("/dev/fuse") else "there is no /dev/fuse"


@contextmanager
def cluster(directory: Path, *names: str, kind: tuple[str, ...] = INCOHERENT) -> Iterator[tuple[Host, ...]]:
    """Hosts of these names; the folder is ``directory/folder``, and each sees it as ``directory/shared``."""
    folder, shared = directory / "folder", directory / "shared"
    folder.mkdir()
    shared.mkdir()
    with ExitStack() as up:
        yield tuple(up.enter_context(Host(name, folder, shared, kind)) for name in names)


class Host:
    """One host. `shared` is the path at which its programs see the folder, `folder` where everybody else does."""

    def __init__(self, name: str, folder: Path, shared: Path, kind: tuple[str, ...]) -> None:
        self.name, self.folder, self.shared = name, folder, shared
        first = ("unshare", "--uts", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child", "sh", "-c", _FIRST)
        self._up = subprocess.Popen(
            [*first, "sh", name, *kind, str(folder), str(shared)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._programs: list[subprocess.Popen[str]] = []
        assert self._up.stdout is not None
        assert self._up.stdout.readline() == "up\n", f"host {name} did not come up"
        self.first = int(Path(f"/proc/{self._up.pid}/task/{self._up.pid}/children").read_text())

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *error: object) -> None:
        self.crash()

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command here, with pipes, in the root directory; a child like any other: kill it, wait for it."""
        options = {**dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE), "text": True, **options}
        _enter(self.first, "pid")  # where the children of this thread are born; it stays where it is itself
        try:
            program = subprocess.Popen(command, preexec_fn=lambda: _enter(self.first, "uts", "mnt"), **options)
        finally:
            _enter(os.getpid(), "pid")
        self._programs.append(program)
        return program

    def run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command here to its end, whatever that is."""
        program = self.start(*command, **{"stdin": subprocess.DEVNULL, **options})
        out, err = program.communicate(timeout=60)
        return subprocess.CompletedProcess(command, program.returncode, out, err)

    def python(self, program: str, *arguments: str) -> str:
        """Run a Python program here, which must succeed; what it printed."""
        done = self.run(sys.executable, "-c", program, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def interlock(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line here to its end."""
        return self.run(sys.executable, "-m", "interlock", *arguments)

    def pause(self) -> None:
        """Stop every process of this host, those that serve its mount included; it hears nothing until `resume`."""
        self._send_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let everything go on where it was stopped."""
        self._send_all(signal.SIGCONT)

    def crash(self) -> None:
        """End the host at once, with all that runs on it; the folder and the other hosts stay. May be called twice."""
        self._up.kill()
        self._up.communicate(timeout=30)
        for program in self._programs:
            program.kill()
            program.communicate(timeout=30)

    def _send_all(self, number: int) -> None:
        """Send a signal to all that runs here, until nobody was born meanwhile."""
        told: set[int] = set()
        while new := self._processes() - told:
            for pid in new:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            told |= new

    def _processes(self) -> set[int]:
        mine = os.stat(f"/proc/{self.first}/ns/pid").st_ino
        found = set()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if os.stat(entry / "ns/pid").st_ino == mine:
                    found.add(int(entry.name))
            except OSError:  # it has ended, or is not for us to look at
                pass
        return found


def _enter(pid: int, *spaces: str) -> None:
    """Go into namespaces of a process."""
    descriptors = [os.open(f"/proc/{pid}/ns/{space}", os.O_RDONLY | os.O_CLOEXEC) for space in spaces]
    for descriptor in descriptors:
        if _LIBC.setns(descriptor, 0):
            raise OSError(ctypes.get_errno(), f"setns to the namespaces of {pid}")
        os.close(descriptor)
