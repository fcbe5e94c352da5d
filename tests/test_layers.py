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
# What each layer may import of ours; a name stands for the module and for everything in the package of that name.
ALLOWED = {
    "abc": set(),
    "errors": set(),
    "values": {"errors"},
    "world": set(),
    "holder": {"world"},
    "machines": BOTTOM | {"machines"},
    "stores": BOTTOM | {"stores", "holder"},
    "_script": BOTTOM,
    "_runners": BOTTOM | {"_script"},
    "codecs": {"codecs", "values"},
    "keys": set(),
    "entries": {"codecs"},
    "results": BOTTOM | {"values", "codecs", "entries"},
    "objects": BOTTOM | {"_script", "_runners", "machines", "objects", "holder", "values", "results"},
    "job": BOTTOM | {"holder", "stores", "world"},
    "session": BOTTOM | {"objects", "stores", "holder", "world", "job", "cache"},
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


@pytest.mark.parametrize("layer", ALLOWED)
def test_a_layer_imports_only_what_lies_below_it(layer: str) -> None:
    """`machines` <- `_script` <- `_runners` <- `objects` <- `session`; stores know neither machines nor objects."""
    files = [SOURCE / f"{layer}.py"] if (SOURCE / f"{layer}.py").exists() else sorted((SOURCE / layer).glob("*.py"))
    assert files
    for file in files:
        assert imports(ast.parse(file.read_text())) <= ALLOWED[layer], file


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
