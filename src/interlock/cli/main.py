"""The command line: options, and which part of the library each command asks.

Exit codes of every command but ``run``: 0 done, or free; 1 held (``check``) or damaged (``cache verify``); 2 an error,
in one line on standard error.
``run`` has those of `interlock.cli.run`.

Layer: the top; it decides nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import click

import interlock
from interlock import clearing, inspection
from interlock.cli import display
from interlock.errors import InterlockError
from interlock.holder import plain
from interlock.inspection import Status
from interlock.keys import key_of
from interlock.objects.named import check_name
from interlock.stores import open_store

ERROR = 2
HELD = 1
INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(interlock.__version__, prog_name="interlock")
@click.option(
    "--url", help="Scope, as a URL or a directory. Default: $INTERLOCK_URL, else the user's own state directory."
)
@click.pass_context
def cli(context: click.Context, url: str | None) -> None:
    """Locks for parallel jobs, held by commands, and a look at who holds what."""
    context.obj = url


def _inherit(context: click.Context, parameter: click.Parameter, url: str | None) -> str | None:
    return context.obj if url is None else url


_url: Callable[[Any], Any] = click.option("--url", callback=_inherit, help="Scope; may also stand before the command.")


def _name_of(context: click.Context, parameter: click.Parameter, items: tuple[str, ...]) -> str | None:
    try:
        return key_of(items) if items else None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_key: Callable[[Any], Any] = click.option(
    "--key",
    multiple=True,
    metavar="P=VALUE",
    callback=_name_of,
    help="In place of NAME: the name that interlock.key(P=VALUE) makes in Python; repeat it for each parameter.",
)
_json: Callable[[Any], Any] = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _places(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    told = os.environ.get("INTERLOCK_PIDFILES", "")
    return given or (tuple(filter(None, told.split(os.pathsep))) if not context.params.get("prefix") else ())


_pidfiles: Callable[[Any], Any] = click.option(
    "--pidfiles",
    multiple=True,
    metavar="PATH",
    callback=_places,
    help="Also the lock files of shell scripts: a file, a directory to search, or a glob. Default, without PREFIX: "
    "$INTERLOCK_PIDFILES.",
)


def _one(name: str | None, key: str | None) -> str:
    """The name, whichever way it is given."""
    if (name is None) == (key is None):
        raise click.UsageError("give one of NAME and --key P=VALUE")
    return check_name(key if name is None else name)


class _Parted(click.Command):
    """Keeps the first ``--`` among the words. Click takes one away, so it gets one more."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        return super().parse_args(context, [*args[:at], "--", *args[at:]])


def _parted(words: tuple[str, ...], key: str | None) -> tuple[str, tuple[str, ...]]:
    """The name and the command, whichever way the name is given."""
    at = words.index("--") if "--" in words else len(words)
    before, command = words[:at], words[at + 1 :]
    if key is not None and before:
        raise click.UsageError(f"--key stands in place of NAME: drop {before[0]!r} or --key. CMD comes after --")
    name, *rest = (*before, *command) if key is None else (key, *command)
    if not rest:
        raise click.UsageError("give NAME, or --key P=VALUE, and a command: interlock run NAME -- CMD ARG...")
    return name, tuple(rest)


@cli.command(cls=_Parted)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="NAME -- CMD ARG...")
@_key
@click.option("--read", is_flag=True, help="Hold the shared side: other readers may run beside it, no writer.")
@click.option("--permits", type=click.IntRange(min=1), metavar="N", help="Hold one of N permits of a semaphore.")
@click.option("--once", is_flag=True, help="Run it once ever, whoever comes first: the lock, with --skip-if-done.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), metavar="S", help="Wait at most so many seconds, then exit 75."
)
@click.option(
    "--if-held",
    type=click.Choice(["wait", "skip", "fail"]),
    default="wait",
    show_default=True,
    help="When somebody holds it: wait; skip, exit 75; fail, exit 1.",
)
@click.option("--skip-if-done", is_flag=True, help="Exit 0 at once if it ran before under this name and exited 0.")
@click.option("--pidfile", metavar="PATH", help="Also hold this lock file of shell scripts, as .training_lock.")
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    metavar="S",
    help="Stop CMD so many seconds before the time limit of this job: SIGTERM, and SIGKILL just before the end.",
)
@click.option("--note", default="", metavar="TEXT", help="A few words for whoever waits.")
@_url
def run(
    url: str | None,
    words: tuple[str, ...],
    key: str | None,
    read: bool,
    permits: int | None,
    once: bool,
    **options: Any,
) -> int:
    """Run CMD while holding NAME: interlock run NAME [OPTIONS] -- CMD ARG...

    Exit code: that of CMD (128 + N if signal N ended it, 127 if it was not found, 126 if it cannot be executed); 75 if
    it was skipped because NAME is held; 0 if it was skipped because it is done; 2 for an error, a lost hold included.

    CMD finds INTERLOCK_NAME, INTERLOCK_TOKEN and INTERLOCK_URL in its environment. Signals are forwarded to it. It is
    stopped if the hold is lost, and killed if this command is; its own children are not, so let a script `exec` them.

    A job that was requeued and finds NAME held by its own earlier run waits for the end of that, whatever --if-held
    and --timeout say. A command that got a signal (SIGTERM, SIGUSR1, ...) does not count as done, even if it exits 0.
    """
    from interlock.cli import run as runs

    if read + (permits is not None) + once > 1:
        raise click.UsageError("--read, --permits and --once exclude each other")
    done = once or options.pop("skip_if_done")
    if done and (read or permits):
        raise click.UsageError("--skip-if-done takes the exclusive lock: not with --read or --permits")
    if options["timeout"] is not None and options["if_held"] != "wait":
        raise click.UsageError("--timeout goes with --if-held wait")
    options.pop("skip_if_done", None)
    name, command = _parted(words, key)
    return runs.run(runs.Request(name, command, url=url, shared=read, permits=permits, skip_if_done=done, **options))


@cli.command()
@click.argument("prefix", default="")
@click.option("--all", "everything", is_flag=True, help="Also names that nobody uses now, and those that are done.")
@_pidfiles
@_json
@_url
def ls(url: str | None, prefix: str, everything: bool, pidfiles: tuple[str, ...], as_json: bool) -> int:
    """List the names in use, who has them and how many wait. Takes nothing. Exit code 2 if a record is damaged.

    Who holds a name is ACTIVE, STALE (proved to be gone: the next one gets the name), or UNKNOWN; the proof follows.
    """
    store = open_store(url)
    found = [status for status in inspection.survey(store, prefix) if everything or status.in_use]
    found += inspection.pidfiles(pidfiles)
    display.listing(found, store.url, as_json)
    return ERROR if any(status.state == "damaged" for status in found) else 0


@cli.command()
@click.argument("name", required=False)
@_key
@_json
@_url
def show(url: str | None, name: str | None, key: str | None, as_json: bool) -> int:
    """Show all that is known of NAME: who holds it, who waits and in which order, with proofs of life or death.

    NAME may be the path of a shell's lock file.
    """
    status = _look(url, _one(name, key))
    display.details(status, as_json)
    return ERROR if status.damage else 0


@cli.command()
@click.argument("name", required=False)
@_key
@_json
@_url
def check(url: str | None, name: str | None, key: str | None, as_json: bool) -> int:
    """Exit with 0 if NAME is free, 1 if somebody holds or waits for it, 2 if that cannot be told. Takes nothing.

    A name whose holders are all proved dead is free: the next one gets it. NAME may be the path of a shell's lock file.
    """
    status = _look(url, _one(name, key))
    display.verdict(status, as_json)
    return ERROR if status.damage else HELD if status.held else 0


def _look(url: str | None, name: str) -> Status:
    """What there is of a name; of the lock file there, if it is the path of one and nobody has used it as a name."""
    status = inspection.look(open_store(url), name)
    return status if status.state != "free" or os.sep not in name else inspection.look_at_pidfile(name) or status


@cli.command()
@click.argument("prefix", default="")
@click.option("--apply", is_flag=True, help="Do it; without this it is only listed.")
@click.option(
    "--force", is_flag=True, help="Also evict those of whom nobody can tell whether they live; with --reason."
)
@click.option("--reason", default="", metavar="TEXT", help="Why, for the audit trail; with --force.")
@click.option(
    "--watch",
    type=click.FloatRange(min=0),
    metavar="S",
    help="First watch everybody for so many seconds: where sessions have leases, silence for a lease's time is proof.",
)
@_pidfiles
@_json
@_url
def clear(url: str | None, prefix: str, apply: bool, pidfiles: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Remove what the dead left behind and the records nobody uses, under the names that start with PREFIX.

    Lists it only, unless --apply. Without --force nothing is taken from anybody who is not proved dead, so it is safe
    beside running jobs. Tokens never go back. What is done stays done: `break` forgets that.
    """
    force, reason, watch = options["force"], options["reason"], options["watch"]
    if force and apply and not reason:
        raise click.UsageError("--force needs --reason TEXT, for the audit trail")
    store = open_store(url)
    if watch is not None:
        clearing.watch(store, watch)
    steps = clearing.plan(store, prefix, force=force) + clearing.plan_pidfiles(pidfiles, force=force)
    if apply:
        steps = [step for step in steps if step.open or clearing.perform(store, step, reason)]
    display.steps(steps, as_json, applied=apply)
    return ERROR if any(step.action == "damaged" for step in steps) else 0


@cli.command("break")
@click.argument("name", required=False)
@_key
@click.option("--reason", required=True, metavar="TEXT", help="Why, for the audit trail.")
@_url
def break_(url: str | None, name: str | None, key: str | None, reason: str) -> int:
    """Free NAME whoever has it, alive or not, and write down who did that and why.

    Who holds it goes on without it until it notices; `interlock run` notices within a second and stops its command. A
    barrier is reset; a damaged record is set aside. Of NAME#done, it is forgotten that NAME is done.
    """
    steps = clearing.break_(open_store(url), _one(name, key), reason)
    display.steps(steps, as_json=False, applied=True)
    return 0


@cli.command()
@click.argument("prefix", default="")
@click.option("--clear", is_flag=True, help="Remove those where nobody is any more.")
@_json
def scopes(prefix: str, clear: bool, as_json: bool) -> int:
    """List your scopes in this host's shared memory whose names start with PREFIX, and who is there."""
    from interlock.cli import scopes as listed

    (listed.clear if clear else listed.listing)(prefix, as_json)
    return 0


@cli.group()
def cache() -> None:
    """Look at caches, verify and clear them. CACHE is a name in the scope, or a directory, told by a slash in it."""


@cache.command("ls")
@click.argument("cache", default="")
@_json
@_url
def cache_ls(url: str | None, cache: str, as_json: bool) -> int:
    """List the entries of CACHE, or without it the caches of the scope."""
    from interlock.cli import caches

    if cache:
        caches.listing(caches.opened(url, cache), as_json)
    else:
        found = caches.names(url)
        click.echo(json.dumps(found, indent=2) if as_json else "\n".join(map(plain, found)))
    return 0


@cache.command("stats")
@click.argument("cache")
@_json
@_url
def cache_stats(url: str | None, cache: str, as_json: bool) -> int:
    """How many entries CACHE has, how large they are, and what they took to compute."""
    from interlock.cli import caches

    caches.stats(caches.opened(url, cache), as_json)
    return 0


@cache.command("verify")
@click.argument("cache")
@_json
@_url
def cache_verify(url: str | None, cache: str, as_json: bool) -> int:
    """Read all of CACHE and check it. Exit code 1 if an entry is damaged; nothing is removed."""
    from interlock.cli import caches

    return 0 if caches.verify(caches.opened(url, cache), as_json) else 1


@cache.command("clear")
@click.argument("cache")
@click.option("--apply", is_flag=True, help="Do it; without this it is only counted.")
@_url
def cache_clear(url: str | None, cache: str, apply: bool) -> int:
    """Remove every entry of CACHE. Whoever reads one goes on reading it."""
    from interlock.cli import caches

    caches.clear(caches.opened(url, cache), apply)
    return 0


@cli.command()
@click.argument("path")
@click.option("--probe", metavar="NAME", help="Measure with other hosts: start this with the same NAME on each.")
@click.option("--parties", type=click.IntRange(min=2), default=2, metavar="N", help="How many hosts meet. Default: 2.")
@click.option("--hosts", metavar="A,B", help="Start it on these hosts by ssh; they must see PATH under the same name.")
@click.option("--ssh", default="ssh", metavar="CMD", help="How to reach them: CMD HOST COMMAND. Default: ssh.")
@click.option("--program", default="interlock", metavar="CMD", help="How interlock is called there.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=60.0,
    metavar="S",
    help="Wait so long for the others to come, and for each answer. Default: 60.",
)
@click.option("--no-pin", is_flag=True, help="Do not leave the verdict in PATH, where the file store would find it.")
@_json
def doctor(path: str, hosts: str | None, no_pin: bool, as_json: bool, **options: Any) -> int:
    """Measure what locks, links, names and clocks do in the directory PATH, and what may be used there.

    Of a directory that several hosts share, one host cannot tell: use --probe or --hosts. A definite verdict is left in
    PATH. Exit code: 0 if there is something to use, 1 if nothing works or it is not decided, 2 for an error.
    """
    from interlock.cli import doctor as doctors

    names = tuple(name.strip() for name in hosts.split(",")) if hosts is not None else ()
    if hosts is not None and (len({*names}) < 2 or any(not name or name.startswith("-") for name in names)):
        raise click.UsageError("--hosts needs the names of at least two hosts, with commas between them")
    return doctors.run(doctors.Request(path=path, hosts=names, pin=not no_pin, **options), as_json)


def main() -> None:
    """The entry point: runs the command and exits with its code; an error of ours is one line."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names may be in any script
    try:
        code = cli.main(prog_name="interlock", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        code = INTERRUPTED
    except (InterlockError, OSError, ValueError) as error:
        click.echo(f"interlock: {plain(str(error))}", err=True)
        code = ERROR
    sys.exit(code)
