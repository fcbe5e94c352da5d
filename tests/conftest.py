"""Fixtures every suite uses: one URL per declared store, and the header that says which stores ran."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest

import interlock

NATIVE = find_spec("interlock._native") is not None
if not NATIVE and "CI" in os.environ and "INTERLOCK_WITHOUT_CORE" not in os.environ:
    raise RuntimeError("the extension was not built, so its tests would be missing")
STORES = ("memory", "file", "claims") + (("shm",) if NATIVE else ())

# An example that takes long on a busy machine is none that fails.
hypothesis.settings.register_profile("interlock", deadline=None)
hypothesis.settings.load_profile("interlock")

# Shells have what they start in the background ignore these, and so would everything that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

# Thousands of interpreters are started: the first one keeps the compiled code for the others.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_collection_finish() -> None:
    """Hide what stays to the end from the garbage collector, which would visit, and so copy, it in every child."""
    gc.collect()
    gc.freeze()


def pytest_report_header() -> str:
    build = "with its C core" if NATIVE else "pure Python"
    return f"interlock {interlock.__version__}; stores: {', '.join(STORES)}; build: {build}"


def new_scope(store: str, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty scope of a store; what it leaves behind is removed afterwards."""
    if store == "shm":
        name = f"test-{uuid.uuid4().hex}"
        yield f"shm://{name}"
        shutil.rmtree(f"/dev/shm/interlock-{os.geteuid()}/scopes/{name}", ignore_errors=True)
    elif store == "memory":
        yield f"memory://{uuid.uuid4().hex}"
    else:
        yield f"file://{tmp_path}/space" + ("?primitive=claims" if store == "claims" else "")


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty scope, once for every store."""
    yield from new_scope(request.param, tmp_path)


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    """The URL of an empty file scope."""
    return f"file://{tmp_path}/space"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    with mounted_disk(tmp_path / "disk", "256k") as disk:
        yield disk


@contextmanager
def mounted_disk(disk: Path, size: str) -> Iterator[Path]:
    """A file system of that size, which goes away afterwards even if somebody is still at work on it."""
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", disk], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not permitted here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture
def connect(url: str) -> Iterator[Callable[..., interlock.Session]]:
    """Opens sessions in the scope of `url` and closes them afterwards."""
    opened: list[interlock.Session] = []

    def open_one(**options: object) -> interlock.Session:
        session = interlock.connect(url, **options)  # type: ignore[arg-type]
        opened.append(session)
        return session

    yield open_one
    for session in opened:
        session.close()
