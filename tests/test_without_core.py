"""The package without its extension: everything but ``shm://`` works, and that says what to use instead."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import interlock

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package as it is where the extension could not be built."""
    place = tmp_path_factory.mktemp("bare")
    source = Path(interlock.__file__).parent
    shutil.copytree(source, place / "interlock", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return place


def in_bare(bare: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python with that copy."""
    environment = {**os.environ, "PYTHONPATH": str(bare), "INTERLOCK_WITHOUT_CORE": "1"}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, cwd=TESTS.parent)


def test_shared_memory_says_what_to_use_instead(bare: Path) -> None:
    """`shm://` is refused with a word about the build and about ``file://``; nothing is made."""
    program = "import interlock; interlock.connect('shm://anything').lock('a')"
    done = in_bare(bare, "-c", program)
    assert "Unavailable" in done.stderr
    assert "C compiler" in done.stderr
    assert "file:///" in done.stderr


def test_the_contract_holds_without_it(bare: Path) -> None:
    """Locks, wake-ups and the command line of the other stores pass their own tests."""
    suites = ["contract/test_lock.py", "stores/test_futex.py", "cli/test_looking.py"]
    command = ["-m", "pytest", "-q", "-o", f"cache_dir={bare}/cache", *(str(TESTS / suite) for suite in suites)]
    done = in_bare(bare, *command)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
    assert "build: pure Python" in in_bare(bare, *command, "--collect-only", "-v").stdout
