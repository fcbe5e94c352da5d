"""All the locks there are: listed, judged, cleared. Layer: above `prove.training`."""

from __future__ import annotations

import ast
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from interlock import clearing, inspection, pidfile
from interlock.abc import Liveness, Store
from interlock.clearing import Step
from interlock.compat.prove.training import (
    DEFAULT_LOCK_DIR,
    DEFAULT_WEIGHTS_DIR,
    TrainingLock,
    expanded,
    facts,
)
from interlock.errors import InterlockError, Unavailable
from interlock.holder import running
from interlock.stores import open_store

log = logging.getLogger("interlock")

StrPath = str | os.PathLike[str]

NOT_VERIFIED = "not verified"

_ITEM = re.compile(r"""(\w+)=('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^,]*)(?:,|$)""")


def list_active_locks(lock_dir: StrPath = DEFAULT_LOCK_DIR) -> list[dict[str, Any]]:
    """The locks that `TrainingLock` holds, save those whose holder is proved dead. Takes nothing."""
    return [lock for lock in list_held_locks(lock_dir) if lock["status"] != "STALE"]


def list_held_locks(lock_dir: StrPath = DEFAULT_LOCK_DIR) -> list[dict[str, Any]]:
    """The same with those of the dead."""
    store = open_store(expanded(lock_dir))
    found = []
    for status in inspection.survey(store):
        if status.damage:
            log.warning("a record in %s is damaged: %s", store.url, status.damage)
        for part in status.holders:
            found.append(
                {**_configuration(status.name), **facts(part.life, part.since), "lock_file": store.url, "type": "fcntl"}
            )
    return found


def list_weights_dir_locks(weights_dir: StrPath = DEFAULT_WEIGHTS_DIR, verify_pid: bool = True) -> list[dict[str, Any]]:
    """The ``.training_lock`` files in the folders of the weights. Takes nothing.

    Args: verify_pid: tell whether each one's holder lives; without it all are UNKNOWN.
    """
    root = expanded(weights_dir)
    found = []
    for path in pidfile.find(root):
        life = pidfile.look(path) if verify_pid else Liveness("unknown", NOT_VERIFIED, pidfile.said(path))
        if life is not None:
            since = life.holder.since if life.holder else _mtime(path)
            found.append({**_folder(path, root), **facts(life, since), "lock_file": path, "type": "file"})
    return found


def list_all_locks(
    lock_dir: StrPath = DEFAULT_LOCK_DIR, weights_dir: StrPath = DEFAULT_WEIGHTS_DIR, verify_pid: bool = True
) -> list[dict[str, Any]]:
    """Both kinds; ``type`` tells which: ``file`` or ``fcntl``. Takes nothing."""
    return [*list_weights_dir_locks(weights_dir, verify_pid), *list_held_locks(lock_dir)]


def clear_stale_locks(
    lock_dir: StrPath = DEFAULT_LOCK_DIR, dry_run: bool = True, force: bool = False, reason: str = ""
) -> list[str]:
    """Take the dead out of the directory of locks, safe at any time.

    Args:    dry_run: only tell. force: also those of whom nobody knows whether they live; written down, with `reason`,
             in ``audit.log`` of the directory.
    Returns: the names that were cleared, or would be.
    """
    store = open_store(expanded(lock_dir))
    steps = clearing.plan(store, force=force)
    done = steps if dry_run else _perform(store, steps, reason)
    return [step.name for step in done if step.action == "evict" and step.role == "holds" and step.name]


def clear_stale_file_locks(
    weights_dir: StrPath = DEFAULT_WEIGHTS_DIR,
    dry_run: bool = True,
    force: bool = False,
    reason: str = "",
    lock_dir: StrPath = DEFAULT_LOCK_DIR,
) -> list[str]:
    """Remove the ``.training_lock`` files of the dead, safe at any time.

    Args:    as for `clear_stale_locks`. What is forced is written down in `lock_dir`, where that is known, else in
             ``.interlock`` of the weights.
    Returns: the paths that were removed, or would be.
    """
    root = expanded(weights_dir)
    steps = [step for step in clearing.plan_pidfiles([root], force=force) if not step.open]
    done = steps if dry_run else _perform(_trail(lock_dir, root), steps, reason)
    return [step.path for step in done if step.path]


def preflight_check(
    strategy: str,
    dataset: str,
    model: str,
    ratio: float | None = None,
    lock_dir: StrPath = DEFAULT_LOCK_DIR,
    weights_dir: StrPath | None = None,
) -> bool:
    """Whether the configuration is free to be trained; if it is not, standard error says who has it. Takes nothing."""
    lock = TrainingLock(strategy, dataset, model, ratio, lock_dir, weights_dir=weights_dir)
    if not lock.is_locked():
        return True
    holder = lock.get_lock_holder() or {}
    lines = [
        "[PRE-FLIGHT CHECK FAILED]",
        "Configuration is already being trained:",
        f"  Strategy: {strategy}",
        f"  Dataset: {dataset}",
        f"  Model: {model}",
        *([f"  Ratio: {ratio}"] if ratio is not None else []),
        f"  Held by: Job {holder.get('job_id')} on {holder.get('hostname')}, PID {holder.get('pid')}",
        f"  Since: {holder.get('acquired_at')}",
        f"  Status: {holder.get('status')}, {holder.get('proof')}",
        f"  Lock: {holder.get('lock_file')}",
        "Skipping to avoid duplicate training.",
    ]
    print(*lines, sep="\n", file=sys.stderr)
    return False


def is_pid_running(pid: int) -> bool:
    """Whether a process of this host has that pid."""
    return pid > 0 and running(pid).state != "dead"


def _perform(store: Store, steps: Iterable[Step], reason: str) -> Iterator[Step]:
    """Do what can be done; one folder that may not be written keeps nobody from the others."""
    for step in steps:
        try:
            if not step.open and clearing.perform(store, step, reason):
                yield step
        except (OSError, InterlockError) as error:
            log.error("%s stays: %s", step.path or step.name or step.session, error)


def _trail(lock_dir: StrPath, root: str) -> Store:
    """Where it is written down what was forced."""
    try:
        return open_store(expanded(lock_dir))
    except Unavailable:
        return open_store(os.path.join(root, ".interlock"))


def _configuration(name: str) -> dict[str, Any]:
    """The configuration that a lock's name was made of; the name alone for what is no configuration."""
    told = {found[1]: _value(found[2]) for found in _ITEM.finditer(name)}
    if not {"strategy", "dataset", "model"} <= set(told):
        return {"strategy": name, "dataset": "", "model": "", "ratio": None}
    return {item: told.get(item) for item in ("strategy", "dataset", "model", "ratio")}


def _value(text: str) -> str | float:
    if text[:1] in ("'", '"'):
        return str(ast.literal_eval(text))
    with suppress(ValueError):
        return float(text)
    return text


def _folder(path: str, root: str) -> dict[str, Any]:
    """The configuration of a folder: ``strategy/dataset_cd/model``."""
    folder = os.path.relpath(os.path.dirname(path), root)
    parts = folder.split(os.sep)
    strategy, dataset, model = parts if len(parts) == 3 else (folder, "", "")
    return {"strategy": strategy, "dataset": dataset.removesuffix("_cd"), "model": model}


def _mtime(path: str) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0.0
