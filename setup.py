"""The extension for objects in shared memory; the rest of the project is in pyproject.toml.

It needs a C compiler and Linux. Where it cannot be built the package is whole without it, and ``shm://`` says so.
``INTERLOCK_NATIVE=no`` leaves it out on purpose.
"""

import os
import sys
import sysconfig
from glob import glob

from setuptools import Extension, setup

STABLE = not sysconfig.get_config_var("Py_GIL_DISABLED")
CORE = ("admission", "row", "clearing", "barrier", "event", "once", "object", "life", "park")
TYPES = ("module", "tables", "regions", "steps", "seats", "locks", "meetings", "looks")

native = Extension(
    "interlock._native",
    [f"csrc/{name}.c" for name in CORE + TYPES],
    depends=sorted(glob("csrc/*.h")),
    extra_compile_args=["-std=gnu11", "-O2", "-fvisibility=hidden"],
    define_macros=[("Py_LIMITED_API", "0x030B0000")] if STABLE else [],
    py_limited_api=STABLE,
    optional=True,
)
wanted = sys.platform == "linux" and os.environ.get("INTERLOCK_NATIVE") != "no"
setup(
    ext_modules=[native] if wanted else [],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if wanted and STABLE else {},
)
