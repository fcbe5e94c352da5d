"""The line around a record: which kind of object it is and whose, as JSON.

A file's name holds only a hash of the object's name, so the line carries the name itself; a line that names another
object is damage. Layer: under `stores.file`.
"""

from __future__ import annotations

import json

from interlock.stores._record import Damage


def prefix(name: str, kind: str) -> bytes:
    """What every line of this object starts with."""
    return f'{{"kind":{json.dumps(kind)},"name":{json.dumps(name)},"record":'.encode()


def unseal(line: bytes) -> tuple[str, str, str]:
    """Name, kind and the record's JSON; raises `Damage` for anything else."""
    try:
        content = json.loads(line)
        name, kind = content["name"], content["kind"]
        start = prefix(name, kind)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Damage("its line is not a record's") from None
    if not isinstance(name, str) or not isinstance(kind, str) or not line.startswith(start) or line[-2:] != b"}\n":
        raise Damage("its line is not a record's")
    return name, kind, line[len(start) : -2].decode()
