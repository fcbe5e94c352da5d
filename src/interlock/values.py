"""Values and errors that travel between participants, as text: JSON, never pickle.

What travels: None, booleans, numbers, strings, bytes, lists, tuples and dictionaries of these. Anything else is a
`TypeError` that names it. Everybody, the one who computed included, gets the value as it reads back.

Layer: bottom; imports only `errors`.
"""

from __future__ import annotations

import base64
import json
import sys
import traceback
from typing import Any

from interlock.errors import RemoteError

_TAG = "$interlock"
_DEPTH = 200


def encode(value: Any) -> str:
    """The value as one line of JSON. Raises `TypeError` for a value that cannot travel."""
    return json.dumps(_pack(value, 0), separators=(",", ":"))


def decode(text: str) -> Any:
    """The value back from its text."""
    return _unpack(json.loads(text))


def _pack(value: Any, depth: int) -> Any:
    if depth > _DEPTH:
        raise TypeError(f"a value nested deeper than {_DEPTH} cannot travel between processes")
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [_pack(item, depth + 1) for item in value]
    if type(value) is tuple:
        return {_TAG: "tuple", "items": [_pack(item, depth + 1) for item in value]}
    if type(value) is bytes:
        return {_TAG: "bytes", "base64": base64.b64encode(value).decode()}
    if type(value) is dict:
        if all(type(key) is str for key in value) and _TAG not in value:
            return {key: _pack(item, depth + 1) for key, item in value.items()}
        return {_TAG: "dict", "items": [[_pack(k, depth + 1), _pack(v, depth + 1)] for k, v in value.items()]}
    raise TypeError(
        f"a {type(value).__module__}.{type(value).__qualname__} cannot travel between processes: return numbers, "
        "strings, bytes, lists, tuples or dictionaries of them, or write a file and return its path"
    )


def _unpack(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpack(item) for item in value]
    if not isinstance(value, dict):
        return value
    tag = value.get(_TAG)
    if tag == "tuple":
        return tuple(_unpack(item) for item in value["items"])
    if tag == "bytes":
        return base64.b64decode(value["base64"])
    if tag == "dict":
        return {_unpack(key): _unpack(item) for key, item in value["items"]}
    return {key: _unpack(item) for key, item in value.items()}


def encode_error(error: BaseException, limit: int = 16_000) -> str:
    """An error as text: its type, its arguments where they can travel, its message and its traceback."""
    try:
        args = encode(list(error.args))
        if len(args) > limit:
            raise TypeError
    except TypeError:
        args = encode([str(error)[:limit]])
    kind = type(error)
    return json.dumps(
        {
            "module": kind.__module__,
            "name": kind.__qualname__,
            "args": args,
            "message": str(error)[:limit],
            "traceback": "".join(traceback.format_exception(error))[-limit:],
        }
    )


def decode_error(text: str) -> Exception:
    """An error of the same type where that type is known here, else a `RemoteError`; with the original traceback."""
    told = json.loads(text)
    remote = RemoteError(
        f"{told['name']}: {told['message']}", kind=f"{told['module']}.{told['name']}", traceback=told["traceback"]
    )
    kind = getattr(sys.modules.get(told["module"]), told["name"], None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return remote
    try:
        error = kind(*decode(told["args"]))
    except Exception:
        return remote
    error.__cause__ = remote
    error.add_note(f"raised in another process:\n{told['traceback'].rstrip()}")
    return error
