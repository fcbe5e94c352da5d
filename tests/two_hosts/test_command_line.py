"""The command line of one host beside jobs of the other."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from hosts import Host
from two_hosts import party
from two_hosts.party import Party

HOLD = ("--", "sh", "-c", "echo ready; read line; exit 0")  # a command that runs until its standard input ends


def test_a_job_of_the_other_host_is_seen_and_left_alone(two: tuple[Host, ...], claims: str) -> None:
    """`ls` and `show` tell who holds it and where, `clear` takes nothing from the living, `run` is refused."""
    here, there = two
    job = here.start(sys.executable, "-m", "interlock", "--url", claims, "run", "train", *HOLD)
    assert job.stdout is not None
    assert job.stdout.readline() == "ready\n"
    for look in (("ls",), ("show", "train")):
        said = there.interlock("--url", claims, *look)
        assert said.returncode == 0, said.stderr
        assert "train" in said.stdout
        assert "alder" in said.stdout
    there.interlock("--url", claims, "clear", "--apply", "--watch", "1")
    refused = there.interlock("--url", claims, "run", "--timeout", "0", "train", "--", "true")
    assert refused.returncode != 0
    assert "alder" in refused.stderr
    _, err = job.communicate("\n", timeout=30)
    assert job.returncode == 0, err
    assert there.interlock("--url", claims, "run", "--timeout", "5", "train", "--", "true").returncode == 0


def test_what_a_killed_process_left_is_cleared_after_its_lease(
    two: tuple[Host, ...], claims: str, join: Callable[..., Party]
) -> None:
    """A first look at it proves nothing, and takes nothing; watching it for its lease does."""
    victim, heir = join(two[0], ttl_s=1.0), join(two[1])
    token, _ = victim.call(party.take, "train")
    victim.kill()
    there = two[1]
    held = json.loads(there.interlock("--url", claims, "show", "--json", "train").stdout)
    assert "ACTIVE" in json.dumps(held) or "UNKNOWN" in json.dumps(held)
    cleared = there.interlock("--url", claims, "clear", "--apply", "--watch", "2")
    assert cleared.returncode == 0, cleared.stderr
    assert heir.call(party.take, "train", 0)[0] > token
