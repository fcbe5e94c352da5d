"""Two hosts that share a directory, on the kinds of mount that clusters have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hosts import INCOHERENT, NODE_LOCAL, Host, cluster, missing
from launchers.conftest import demand
from two_hosts.party import Party

KINDS = {"node-local locks": NODE_LOCAL, "forwarded locks": INCOHERENT}


@pytest.fixture(params=sorted(KINDS))
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Host, ...]]:
    """Two hosts whose mount keeps kernel locks to each host, or forwards them."""
    demand(missing())
    with cluster(tmp_path, "alder", "birch", kind=KINDS[request.param]) as hosts:
        yield hosts


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Host, ...]]:
    """Two hosts whose mount keeps kernel locks to each host."""
    demand(missing())
    with cluster(tmp_path, "alder", "birch", kind=NODE_LOCAL) as hosts:
        yield hosts


@pytest.fixture
def claims(tmp_path: Path) -> str:
    """The URL of an empty scope that needs no kernel locks, as the hosts see it."""
    return f"file://{tmp_path}/shared/space?primitive=claims"


@pytest.fixture
def join(claims: str) -> Callable[..., Party]:
    """Starts a process on a host with a session in the scope; it ends with its host."""

    def start(host: Host, **options: Any) -> Party:
        return Party(host, claims, **options)

    return start
