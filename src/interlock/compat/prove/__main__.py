"""The command line of `compat.prove`, as ``training_lock.py`` had it: ``list``, ``clear`` and ``check``.

Exit codes: 0 done, or safe to train; 1 locked (``check``); 2 an error, in one line on standard error, for which nothing
was found out.
"""

from __future__ import annotations

import argparse
import logging
import sys
from typing import Any

from interlock.compat.prove.listing import (
    NOT_VERIFIED,
    clear_stale_file_locks,
    clear_stale_locks,
    list_held_locks,
    list_weights_dir_locks,
    preflight_check,
)
from interlock.compat.prove.training import DEFAULT_LOCK_DIR, DEFAULT_WEIGHTS_DIR
from interlock.errors import InterlockError
from interlock.holder import plain

LOCKED, ERROR = 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # paths may be of any bytes
    logging.basicConfig(format="interlock: %(message)s")
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "check" and not (options.strategy and options.dataset and options.model):
        parser.error("--strategy, --dataset, and --model required for check")
    try:
        return {"list": _list, "clear": _clear, "check": _check}[options.command](options)
    except (InterlockError, OSError, ValueError) as error:
        print(f"interlock: {plain(str(error))}", file=sys.stderr)
        return ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m interlock.compat.prove", description="Training lock management")
    parser.add_argument("command", choices=["list", "clear", "check"])
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--file-only", action="store_true", help="only .training_lock files (list, clear)")
    kind.add_argument("--fcntl-only", action="store_true", help="only the locks of TrainingLock (list, clear)")
    parser.add_argument("--no-verify-pid", action="store_true", help="do not look whether holders live (list)")
    parser.add_argument("--no-dry-run", action="store_true", help="really clear; without it that is only listed")
    parser.add_argument("--force", action="store_true", help="clear what is UNKNOWN too; CAUTION: it may be running")
    parser.add_argument("--reason", default="", help="why, for the audit trail (clear --force)")
    for name in ("strategy", "dataset", "model"):
        parser.add_argument(f"--{name}", help=f"{name} name (check)")
    parser.add_argument("--ratio", type=float, help="ratio (check)")
    parser.add_argument("--lock-dir", default=DEFAULT_LOCK_DIR, help="default: %(default)s")
    parser.add_argument("--weights-dir", help=f"default: {DEFAULT_WEIGHTS_DIR}")
    return parser


def _list(options: argparse.Namespace) -> int:
    files, locks = [], []
    if not options.fcntl_only:
        files = list_weights_dir_locks(options.weights_dir or DEFAULT_WEIGHTS_DIR, not options.no_verify_pid)
    if not options.file_only:
        locks = list_held_locks(options.lock_dir)
    if files:
        print(f"=== File-based locks (.training_lock) ({len(files)}) ===")
        _show(files, "PID: {pid}, Started: {acquired_at}")
    if locks:
        print(f"=== fcntl-based locks ({len(locks)}) ===")
        _show(locks, "Job: {job_id}, Host: {hostname}, PID: {pid}, Started: {acquired_at}")
    if files or locks:
        print(f"\nTotal locks: {len(files) + len(locks)}")
    else:
        print("No active training locks")
    return 0


def _show(locks: list[dict[str, Any]], form: str) -> None:
    for lock in locks:
        lines = (
            f"  - {_label(lock)} [{_status(lock)}]",
            f"    {form.format(**lock)}",
            f"    Lock file: {lock['lock_file']}",
            f"    Proof: {lock['proof']}",
        )
        print(*map(plain, lines), sep="\n")


def _label(lock: dict[str, Any]) -> str:
    ratio = f" ratio {lock['ratio']}" if lock.get("ratio") is not None else ""
    return "/".join(part for part in (lock["strategy"], lock["dataset"], lock["model"]) if part) + ratio


def _status(lock: dict[str, Any]) -> str:
    """The status with the words that people know."""
    status, proof = lock["status"], lock["proof"]
    if status == "STALE":
        return "STALE - no PID" if proof.startswith("no PID") else "STALE - PID not running"
    if status == "UNKNOWN":
        elsewhere = lock["pid"] is not None and proof != NOT_VERIFIED
        return f"UNKNOWN - {'remote process' if elsewhere else proof.partition(':')[0]}"
    return str(status)


def _clear(options: argparse.Namespace) -> int:
    found = []
    dry_run, force, reason = not options.no_dry_run, options.force, options.reason
    if not options.fcntl_only:
        weights = options.weights_dir or DEFAULT_WEIGHTS_DIR
        found += clear_stale_file_locks(weights, dry_run, force, reason, options.lock_dir)
    if not options.file_only:
        found += clear_stale_locks(options.lock_dir, dry_run, force, reason)
    if not found:
        print("No stale locks found")
    else:
        print(f"Found {len(found)} stale locks (dry run):" if dry_run else f"Cleared {len(found)} stale locks:")
        print(*(f"  - {plain(name)}" for name in found), sep="\n")
        if dry_run:
            print("\nRun with --no-dry-run to remove")
    return 0


def _check(options: argparse.Namespace) -> int:
    which = (options.strategy, options.dataset, options.model, options.ratio)
    return 0 if preflight_check(*which, options.lock_dir, options.weights_dir) else LOCKED


if __name__ == "__main__":
    sys.exit(main())
