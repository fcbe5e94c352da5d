"""limit.c as a module, built when it is first asked for: what shared memory costs without everything around it."""

from __future__ import annotations

import importlib.util
import mmap
import os
import shlex
import subprocess
import sysconfig
import tempfile
from functools import cache
from typing import Any

_SOURCE = os.path.join(os.path.dirname(__file__), "limit.c")


@cache
def module() -> Any:
    """The extension; None if there is no compiler for it."""
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
    with tempfile.TemporaryDirectory(prefix="interlock-limit-") as directory:
        built = os.path.join(directory, "limit.so")
        include = f"-I{sysconfig.get_path('include')}"
        command = [*compiler, "-std=gnu11", "-O2", "-shared", "-fPIC", include, _SOURCE, "-o", built]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        spec = importlib.util.spec_from_file_location("limit", built)
        assert spec is not None
        assert spec.loader is not None
        found = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
        return found


def memory() -> mmap.mmap:
    """Zeroed memory that the processes share that are forked later."""
    return mmap.mmap(-1, mmap.PAGESIZE)
