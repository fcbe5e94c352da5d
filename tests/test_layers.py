"""The layers: who may import whom, and what `import interlock` costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import interlock

SOURCE = Path(interlock.__file__).parent
BOTTOM = {"abc", "errors"}
# What each layer may import of ours; a name stands for the module and for everything in the package of that name, but
# for what has a row of its own.
ALLOWED = {
    "abc": set(),
    "errors": set(),
    "values": {"errors"},
    "world": set(),
    "holder": {"world"},
    "machines": BOTTOM | {"machines"},
    "_native": set(),
    "stores": BOTTOM | {"stores", "holder", "_native"},
    "_script": BOTTOM,
    "_runners": BOTTOM | {"_script"},
    "codecs": {"codecs", "values"},
    "keys": set(),
    "entries": {"codecs"},
    "results": BOTTOM | {"values", "codecs", "entries"},
    "objects": BOTTOM | {"_script", "_runners", "machines", "objects", "holder", "values", "results"},
    "job": BOTTOM | {"holder", "stores", "world"},
    "shm": BOTTOM | {"_native", "_script", "_runners", "machines", "objects", "results", "shm", "stores", "holder"},
    "session": BOTTOM | {"objects", "stores", "holder", "world", "job", "cache"},
    "_tasks": {"_script", "_runners"},
    "aio": BOTTOM | {"_script", "_tasks", "objects", "holder", "results", "session"},
    "cache": BOTTOM | {"cache", "codecs", "entries", "keys", "values", "objects", "stores", "holder"},
    "files": BOTTOM | {"files", "objects", "session"},
    "handles": {"errors", "handles"},
    "schedulers": {"schedulers", "holder", "world"},
    "completion": BOTTOM | {"machines", "objects", "session", "holder", "values"},
    "inspection": BOTTOM | {"machines", "completion", "schedulers", "pidfile"},
    "pidfile": BOTTOM | {"pidfile", "files", "objects", "stores", "holder", "schedulers", "inspection"},
    "clearing": BOTTOM | {"machines", "objects", "holder", "results", "inspection", "pidfile"},
    "doctor": {"doctor", "errors", "holder", "stores"},
    "recipes": {"recipes", "errors", "files", "handles", "objects"},
    "compat": {"errors", "files", "session"},
    "compat.streaming": {"compat", "errors", "files", "inspection", "session", "shm", "stores"},
    "compat.prove": BOTTOM | {"compat", "clearing", "inspection", "pidfile", "session", "stores", "holder", "keys"},
    "cli": BOTTOM
    | {"cli", "cache", "clearing", "completion", "doctor", "inspection", "pidfile", "schedulers", "session", "shm"}
    | {"objects", "stores", "holder", "keys"},
    "__main__": {"cli"},
    "__init__": {"session", "world"},
}
MODULES = {
    ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted([*SOURCE.rglob("*.py"), *SOURCE.rglob("*.pyi")])
}
HEAVY = ("asyncio", "concurrent.futures", "ctypes", "hashlib", "multiprocessing", "click", "numpy", "interlock.aio")


def imports(node: ast.AST) -> set[str]:
    """The layers of ours that a module imports, but for those that only a type checker sees."""
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        names = [child.module] if isinstance(child, ast.ImportFrom) else []
        if isinstance(child, ast.ImportFrom) and child.module == "interlock":
            names = [f"interlock.{alias.name}" for alias in child.names]
        if isinstance(child, ast.Import):
            names = [alias.name for alias in child.names]
        found |= {name.split(".")[1] for name in names if name and name.startswith("interlock.")} | imports(child)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_lies_below_it(module: str) -> None:
    """`machines` <- `_script` <- `_runners` <- `objects` <- `session`; stores know neither machines nor objects. A
    module of no layer fails."""
    rows = [layer for layer in ALLOWED if f"{module}.".startswith(f"{layer}.")]
    assert rows, "it has no row in ALLOWED"
    assert imports(ast.parse(MODULES[module].read_text())) <= ALLOWED[max(rows, key=len)]


def test_every_layer_is_there() -> None:
    """No row is left over from a module that has gone."""
    assert {layer for layer in ALLOWED if layer not in MODULES} == set()


def test_importing_interlock_loads_nothing_heavy() -> None:
    """Neither a third party's package nor a costly part of the standard library is loaded to make a first lock."""
    program = (
        "import sys; before = set(sys.modules); import interlock; interlock.connect('memory://').lock('a').acquire();"
        "print(*(set(sys.modules) - before))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "interlock.session" in loaded
    assert not [
        name for name in loaded if name in HEAVY or name.split(".")[0] not in {*sys.stdlib_module_names, "interlock"}
    ]
