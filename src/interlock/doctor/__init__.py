"""What a mount really does: kernel locks, links, names and clocks, measured by one host alone or by several together.

Documentation does not tell whether locks reach other hosts; mounts differ by an option. `examine` measures it: every
host on its own with two processes, and then every two hosts together. The one that leads comes to the verdict, tells
the others, and pins it where the file store looks.

Nothing but the folder ``.interlock-doctor-NAME`` is touched in the directory, and it is removed in the end; the verdict
is a file beside it. Linux only. Layer: above the stores; `cli.doctor` prints what it finds.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from shlex import quote
from typing import Any, NamedTuple

from interlock.doctor import probes
from interlock.doctor.hand import Hand, OwnHand, Refused
from interlock.doctor.meeting import LEADER, Distant, Folder, Mail, Message, Silence, serve
from interlock.doctor.verdict import CREATION, LINKS, PREFERRED, Findings, Verdict, weigh
from interlock.errors import InterlockError, Unavailable
from interlock.holder import Holder
from interlock.stores import _mount

__all__ = ["Verdict", "examine"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_GOODBYE_S = 1.0  # what others have to hear the last word before the folder goes
_LOOK_S = 0.02


class Request(NamedTuple):
    """What `examine` was asked."""

    path: str
    probe: str | None
    parties: int
    timeout: float
    pin: bool


def examine(
    path: str | os.PathLike[str],
    *,
    probe: str | None = None,
    parties: int = 2,
    timeout: float = 60.0,
    pin: bool = True,
) -> Verdict:
    """Measure a directory, alone or together with other hosts, and say what the file store may use in it.

    Args:    probe: the name under which hosts meet that measure together; each calls this with the same one. None: this
             host alone.
             parties: how many hosts meet.
             timeout: how long to wait for the others to come, and then for each answer of theirs.
             pin: leave a definite verdict in the directory. With several hosts, each must agree.
    Returns: the verdict, the same one on every host.
    Raises:  Unavailable: the directory cannot be used, nobody else came, or somebody fell silent (definite).
             ValueError: `probe` is not a plain name.
    Crash:   a host that is killed leaves the others waiting for `timeout` seconds at most; the last one tidies up.
    Cost:    half a second on a disk of this host; some seconds between hosts, more where caches are slow to notice.
    """
    if probe is not None and not _NAME.fullmatch(probe):
        raise ValueError(f"{probe!r} is not a plain name: letters, digits, dots, dashes")
    if sys.platform != "linux":
        raise Unavailable("measuring a mount needs Linux")
    request = Request(os.path.abspath(path), probe, parties if probe else 1, timeout, pin)
    folder = Folder(request.path, probe or os.urandom(6).hex())
    remove = folder.leads
    try:
        return _met(request, folder)
    except Silence:
        remove = True
        raise
    finally:
        if remove:
            folder.remove()
        folder.close()


def _met(request: Request, folder: Folder) -> Verdict:
    """Measure alone, then take the leader's part or a guest's; on any error the others are told."""
    mail = Mail(folder, request.timeout + (0 if folder.leads else _GOODBYE_S))  # the leader knows best who is missing
    try:
        with _hands(folder, request) as hands:
            hello = _hello(request, hands)
            folder.demand_own(mail.post(hello))
            return _lead(request, mail, hands[0], hello) if folder.leads else _follow(request, mail, hands[0])
    except BaseException as error:
        told = _in_words(error, request, folder)
        mail.part({"left": str(told) or "it was interrupted"})
        if told is error:
            raise
        raise told from error
    finally:
        if folder.leads:
            mail.await_last_words(_GOODBYE_S)


def _in_words(error: BaseException, request: Request, folder: Folder) -> BaseException:
    """The error as people should be told of it: that a step failed means little if the others have ended the probe."""
    if isinstance(error, InterlockError) or not isinstance(error, (OSError, Refused)):
        return error
    if folder.gone():
        return folder.ended()
    return Unavailable(f"{request.path} cannot be measured: {error}", path=request.path)


@contextmanager
def _hands(folder: Folder, request: Request) -> Iterator[tuple[OwnHand, OwnHand]]:
    """Two processes of this host; they end here."""
    host = os.uname().nodename
    hands = OwnHand(host, folder.fd, request.timeout), OwnHand(host, folder.fd, request.timeout)
    try:
        yield hands
    finally:
        for hand in hands:
            hand.kill()


def _hello(request: Request, hands: tuple[Hand, Hand]) -> Message:
    """What a host says of itself: who it is, which mount of which machine it looks through, and what it found alone."""
    mount, holder = _mount.mount_of(request.path), Holder.here()
    return {
        "host": holder.host,
        "holder": holder.describe(),
        "looks_through": [holder.boot_id, os.stat(request.path).st_dev],
        "file_system": mount.kind,
        "options": sorted(mount.options),
        "shared": _mount.may_be_shared(request.path),
        "pin": request.pin,
        "alone": _alone(*hands, request.timeout),
    }


def _alone(one: Hand, other: Hand, patience: float) -> dict[str, Any]:
    return {
        **_exclusion(one, other, patience),
        "shared_mapping": probes.mapping(one, other),
        "server_clock_ahead_s": probes.server_ahead(one),
    }


def _exclusion(one: Hand, other: Hand, patience: float) -> dict[str, Any]:
    """For each way of keeping others out: why it may not be relied on, or None."""
    locks = {primitive: probes.lock(primitive, one, other, patience) for primitive in PREFERRED}
    return {**locks, CREATION: probes.unique("create", one, other), LINKS: probes.unique("link", one, other)}


# -- the leader


def _lead(request: Request, mail: Mail, own: Hand, hello: Message) -> Verdict:
    guests = _gather(request, mail)
    labels = _labels([hello["host"], *(said["host"] for said in guests.values())])
    hellos = [hello, *guests.values()]
    _demand_apart(hellos, labels)
    own.host = labels[0]
    hands = [own, *(Distant(mail, guest, label) for guest, label in zip(guests, labels[1:], strict=True))]
    mail.post({"begun": [*guests]})
    verdict = _judge(request, hellos, hands)
    mail.post({"verdict": dataclasses.asdict(verdict)})
    return verdict


def _gather(request: Request, mail: Mail) -> dict[str, Message]:
    """The hosts that have come, with what each says of itself."""
    guests: dict[str, Message] = {}
    end = time.monotonic() + request.timeout
    while len(guests) < request.parties - 1:
        for guest in mail.guests():
            if guest not in guests and len(guests) < request.parties - 1:
                guests[guest] = mail.wait(guest)
        if len(guests) < request.parties - 1:
            if time.monotonic() > end:
                came = ", ".join(said["host"] for said in guests.values())
                raise Unavailable(
                    f"{f'only {came}' if came else 'nobody else'} came within {request.timeout:g} s; start the same "
                    f"command on the other host: interlock doctor {quote(request.path)} --probe {request.probe}",
                    path=request.path,
                )
            time.sleep(_LOOK_S)
    return guests


def _labels(names: Sequence[str]) -> list[str]:
    """The host names, told apart where two are the same."""
    return [name if name not in names[:at] else f"{name}-{at + 1}" for at, name in enumerate(names)]


def _demand_apart(hellos: Sequence[Message], labels: Sequence[str]) -> None:
    for (one, a), (other, b) in combinations(zip(hellos, labels, strict=True), 2):
        if one["looks_through"] == other["looks_through"]:
            raise Unavailable(
                f"{a} and {b} look through the same mount of the same machine, which tells nothing about other hosts: "
                f"start one of them on another host"
            )


def _judge(request: Request, hellos: Sequence[Message], hands: Sequence[Hand]) -> Verdict:
    """Measure between every two, come to the verdict, and pin it."""
    hosts: Findings = {hand.host: hello["alone"] for hand, hello in zip(hands, hellos, strict=True)}
    trips = {hands[0].host: 0.0}
    for hand in hands[1:]:
        trips[hand.host], hand.ahead = probes.clock(hand)
    between: Findings = {}
    for a, b in combinations(hands, 2):
        between[f"{a.host} - {b.host}"] = {
            **_exclusion(a, b, request.timeout),
            **probes.visibility(a, b, request.timeout),
            "round_trip_s": round(trips[a.host] + trips[b.host], 6),
            "clock_ahead_s": round(b.ahead - a.ahead, 6),
        }
    decided, primitive, refused = weigh(hosts, between, any(hello["shared"] for hello in hellos))
    verdict = Verdict(
        path=request.path,
        file_system=hellos[0]["file_system"],
        options=tuple(hellos[0]["options"]),
        hosts=tuple(hosts),
        decided=decided,
        primitive=primitive,
        refused=refused,
        measured={"hosts": hosts, "between": between},
        pinned=decided and all(hello["pin"] for hello in hellos),
    )
    if verdict.pinned:
        _mount.publish(request.path, verdict.pin())
    return verdict


# -- a guest


def _follow(request: Request, mail: Mail, own: Hand) -> Verdict:
    lead = mail.wait(LEADER, "the leader of the probe")["holder"]
    begun = mail.wait(LEADER, lead).get("begun", ())
    if mail.me not in begun:
        raise Unavailable(
            f"the probe {request.probe!r} has begun without this host, led by {lead}: choose another name"
        )
    verdict = Verdict(**serve(mail, own)["verdict"])
    mail.part({"bye": True})
    return dataclasses.replace(verdict, path=request.path)
