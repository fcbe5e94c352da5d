"""Kubernetes, asked through kubectl.

1. A pod is over when every one of its containers is terminated, as the kubelet of its node has told. A kubelet that
   could not find a container any more (ContainerStatusUnknown) has told nothing.
2. A pod of that name that was made after the holder began is another one: a StatefulSet gives names again, and a pod
   that was deleted by force may go on. A pod that is not found proves nothing for the same reason.
3. Names are unique in a namespace only: the holder must have told its own in $POD_NAMESPACE.

Layer: above `_run` and `_command`.
"""

from __future__ import annotations

import json
import re
from calendar import timegm
from typing import Any

from interlock.holder import Holder, Life
from interlock.schedulers._command import Silent, ask
from interlock.schedulers._run import Run, weigh
from interlock.world import Job

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.\d+)?Z")
_LISTS = ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")


def life(job: Job, holder: Holder) -> Life:
    """What Kubernetes proves about a holder. Raises `Silent` if it does not answer."""
    if not job.cluster:
        raise Silent(f"{job} does not tell its namespace; set $POD_NAMESPACE in its containers")
    if _NAME.fullmatch(job.id) is None or _NAME.fullmatch(job.cluster) is None:
        raise Silent(f"{job.id!r} in {job.cluster!r} is no pod")
    told = json.loads(ask("kubectl", "get", "pod", job.id, f"--namespace={job.cluster}", "--output=json"))
    if (told["metadata"]["name"], told["metadata"]["namespace"]) != (job.id, job.cluster):
        raise Silent(f"kubectl answers something else than was asked about {job}")
    made = _time(told["metadata"]["creationTimestamp"])
    phase = told["status"]["phase"]
    ends = [each["state"].get("terminated") for name in _LISTS for each in told["status"].get(name) or ()]
    if not ends or None in ends:
        alive = phase in ("Pending", "Running")
        words = f"is {phase}" if alive else f"is {phase}, which does not tell whether its processes go on"
        run = Run("alive" if alive else "unknown", words, None, made)
    elif any(end["reason"] == "ContainerStatusUnknown" for end in ends):
        run = Run("unknown", f"ended {phase}, without its node having told how", None, made)
    else:
        run = Run("dead", f"ended {phase}", None, made, max(_time(end["finishedAt"]) for end in ends))
    return weigh(run, job, holder)


def _time(text: Any) -> float:
    """A time as Kubernetes writes it. Raises `ValueError` for anything else."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a time")
    return float(timegm(tuple(map(int, found.groups()))))
