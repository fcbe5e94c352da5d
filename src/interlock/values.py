"""Values and errors that travel between participants, as text: JSON, never pickle.

What travels: None, booleans, numbers, strings, bytes, lists, tuples and dictionaries of these. Anything else is for the
caller's `beyond` to put into JSON, or a `TypeError` that names it. Everybody, the one who computed included, gets the
value as it reads back.

Layer: bottom; imports only `errors`.
"""

from __future__ import annotations

import base64
import json
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from interlock.errors import RemoteError

Beyond = Callable[[Any], dict[str, Any]]

_TAG = "$interlock"
_DEPTH = 200


def encode(value: Any, beyond: Beyond | None = None, large: int = sys.maxsize) -> str:
    """The value as one line of JSON.

    Args:   beyond: gives JSON for what has none, and for strings and bytes that are longer than `large`.
    Raises: TypeError: the value cannot travel.
    """
    return json.dumps(_pack(value, 0, beyond or refuse, large), separators=(",", ":"))


def decode(text: str, beyond: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The value back from its text; `beyond` turns back what the other one made."""
    return _unpack(json.loads(text), beyond)


def tagged(told: dict[str, Any]) -> str:
    """The text of a value that is nothing but what `beyond` would make of it."""
    return json.dumps({_TAG: "beyond", **told}, separators=(",", ":"))


def _pack(value: Any, depth: int, beyond: Beyond, large: int) -> Any:
    if depth > _DEPTH:
        raise TypeError(f"a value nested deeper than {_DEPTH} cannot travel between processes")
    kind = type(value)
    if value is None or kind in (bool, int, float) or (kind is str and len(value) <= large):
        return value

    def packed(items: Iterable[Any]) -> list[Any]:
        return [_pack(item, depth + 1, beyond, large) for item in items]

    if kind is list:
        return packed(value)
    if kind is tuple:
        return {_TAG: "tuple", "items": packed(value)}
    if kind is bytes and len(value) <= large:
        return {_TAG: "bytes", "base64": base64.b64encode(value).decode()}
    if kind is dict:
        if all(type(key) is str for key in value) and _TAG not in value:
            return dict(zip(value, packed(value.values()), strict=True))
        return {_TAG: "dict", "items": [packed(item) for item in value.items()]}
    return {_TAG: "beyond", **beyond(value)}


def refuse(value: Any) -> dict[str, Any]:
    """Raise the error for a value that cannot travel."""
    raise TypeError(
        f"a {type(value).__module__}.{type(value).__qualname__} cannot travel between processes: return numbers, "
        "strings, bytes, arrays, tensors, tables, lists, tuples or dictionaries of them, or a file's path"
    )


def _unpack(value: Any, beyond: Callable[[dict[str, Any]], Any] | None) -> Any:
    if isinstance(value, list):
        return [_unpack(item, beyond) for item in value]
    if not isinstance(value, dict):
        return value
    tag = value.get(_TAG)
    if tag == "tuple":
        return tuple(_unpack(value["items"], beyond))
    if tag == "bytes":
        return base64.b64decode(value["base64"])
    if tag == "dict":
        return {_unpack(key, beyond): _unpack(item, beyond) for key, item in value["items"]}
    if tag == "beyond" and beyond is not None:
        return beyond(value)
    return {key: _unpack(item, beyond) for key, item in value.items()}


def encode_error(error: BaseException, by: str, limit: int = 16_000) -> str:
    """An error as text: its type, its arguments where they can travel, its message, its traceback, and by whom."""
    try:
        args = encode(list(_args(error)))
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
            "by": by,
            "message": str(error)[:limit],
            "traceback": "".join(traceback.format_exception(error))[-limit:],
        }
    )


def decode_error(text: str) -> Exception:
    """An error of the same type where that type is known here, else a `RemoteError`; with a note of who raised it."""
    told = json.loads(text)
    remote = RemoteError(
        f"{told['name']}: {told['message']}", kind=f"{told['module']}.{told['name']}", traceback=told["traceback"]
    )
    note = f"raised by {told['by']}:\n{told['traceback'].rstrip()}"
    kind = getattr(sys.modules.get(told["module"]), told["name"], None)
    error: Exception = remote
    if isinstance(kind, type) and issubclass(kind, Exception):
        with suppress(Exception):  # its arguments may not be all it takes
            error = kind(*decode(told["args"]))
    error.add_note(note)
    return error


def _args(error: BaseException) -> tuple[Any, ...]:
    """What makes the error anew; an error of the operating system keeps its files apart from its arguments."""
    if isinstance(error, OSError) and error.filename is not None and len(error.args) == 2:
        return (*error.args, error.filename, *(() if error.filename2 is None else (None, error.filename2)))
    return error.args
