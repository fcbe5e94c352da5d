"""Results: what one participant made, as the text that a record carries to the others.

Plain values are JSON in the record (`interlock.values`). Arrays, tensors and tables are their codec's bytes, in base64
while they are small. What is large goes into a file of its own among the scope's attachments (`interlock.entries`), and
the record names the file: so a large array is mapped by everybody and copied by nobody.

The attachments of a name begin with its digest and the turn they belong to. The next turn's result removes those of
earlier turns; `interlock clear` removes those whose record is gone.

Layer: above `codecs` and `entries`; under the objects.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from interlock import values
from interlock.abc import Outcome, Store
from interlock.errors import InterlockError, RecordInvalid, Unavailable

if TYPE_CHECKING:
    from interlock.codecs import Buffer

INLINE_BYTES = 32 * 1024  # of one value inside the record; larger ones get a file
_TEXT_BYTES = 128 * 1024  # of the whole text inside the record


def pack(value: Any, store: Store, name: str, turn: int) -> str:
    """The text of a value, and files for what is large in it.

    Raises: TypeError: it cannot travel. Unstored: the disk is full, say (definite). No file is left behind then.
    """
    written: list[str] = []

    def beyond(item: Any) -> dict[str, Any]:
        from interlock import codecs

        try:
            encoded = codecs.encode(item)
        except TypeError:
            return values.refuse(item)
        if encoded.length <= INLINE_BYTES:
            raw = b"".join(encoded.buffers)
            return {"codec": encoded.codec, "base64": base64.b64encode(raw).decode()}
        return {"codec": encoded.codec, "file": _attach(encoded)}

    def _attach(encoded: Any) -> str:
        from interlock import entries

        file = f"{prefix(name)}-{turn}-{os.urandom(6).hex()}"
        written.append(os.path.join(store.attachments, file))
        try:
            entries.write(written[-1], encoded, key=name)
        except OSError as error:
            raise Unstored(f"the result of {name!r} cannot be stored: {error}", name=name, scope=store.url) from error
        return file

    try:
        text = values.encode(value, beyond, INLINE_BYTES)
        if len(text) > _TEXT_BYTES:
            from interlock.codecs import Encoded

            text = values.tagged({"codec": "json", "file": _attach(Encoded("json", [text.encode()]))})
    except BaseException:
        remove(written)
        raise
    return text


def unpack(text: str, store: Store) -> Any:
    """The value of a text. Raises `Missing` if one of its files is gone, `RecordInvalid` if one is damaged,
    `Unavailable` if one cannot be read now."""

    def beyond(told: dict[str, Any]) -> Any:
        from interlock import codecs

        payload: Buffer = base64.b64decode(told["base64"]) if "base64" in told else _fetch(told["file"], store)
        if told["codec"] == "json":
            return values.decode(str(payload, "utf-8"), beyond)
        return codecs.decode(told["codec"], payload)

    return values.decode(text, beyond)


def withdraw(text: str, store: Store) -> None:
    """Remove the files of a value that everybody has who was to have it."""
    written: list[str] = []

    def beyond(told: dict[str, Any]) -> None:
        if "file" in told:
            written.append(os.path.join(store.attachments, os.path.basename(told["file"])))
            if told["codec"] == "json":
                values.decode(str(_fetch(told["file"], store), "utf-8"), beyond)

    with suppress(InterlockError):
        values.decode(text, beyond)
    remove(written)


class Unstored(Unavailable):
    """A result could not be stored, and is nobody's: whoever comes next makes it anew. Definite."""


class Missing(InterlockError):
    """A file of a result is gone: removed by somebody, or with the result, or for a later turn's. Definite."""


def _fetch(file: str, store: Store) -> Any:
    from interlock import entries

    path = os.path.join(store.attachments, os.path.basename(file))
    try:
        return entries.read(path).payload
    except FileNotFoundError:
        raise Missing(f"the result's file {path} is gone; forget the result to have it made anew") from None
    except entries.Damage as damage:
        raise RecordInvalid(f"the result's file {path} cannot be used: {damage}", path=path) from None
    except OSError as error:
        raise Unavailable(f"the result's file {path} cannot be read: {error}", scope=store.url) from error


def result_of(outcome: Outcome, store: Store) -> Any:
    """The value of a settled outcome; raises the error if it failed."""
    if outcome.state == "failed":
        raise values.decode_error(outcome.value)
    return unpack(outcome.value, store)


def prefix(name: str) -> str:
    """How the files of a name begin."""
    from hashlib import blake2b

    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def supersede(store: Store, name: str, turn: int) -> None:
    """Remove the files of a name's earlier turns."""
    remove(path for path, mine, before in _all(store) if mine == prefix(name) and before < turn)


def orphans(store: Store, names: Iterable[str]) -> list[str]:
    """The files that belong to none of these names."""
    known = {prefix(name) for name in names}
    return [path for path, mine, _ in _all(store) if mine not in known]


def remove(paths: Iterable[str]) -> None:
    """Remove files; those that are gone already are gone."""
    for path in paths:
        with suppress(OSError):
            os.unlink(path)


def _all(store: Store) -> Iterator[tuple[str, str, int]]:
    """Path, prefix and turn of every attachment, of one that is being written too."""
    try:
        found = os.listdir(store.attachments)
    except OSError:  # there are none, or they cannot be tidied now
        return
    for file in found:
        mine, _, rest = file.removeprefix(".").partition("-")
        turn = rest.partition("-")[0]
        if turn.isdecimal():
            yield os.path.join(store.attachments, file), mine, int(turn)
