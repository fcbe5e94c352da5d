"""Which file system a path is on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import interlock
from interlock.stores import _kernel_lock, _mount
from interlock.stores._mount import Mount
from interlock.stores._space import Space


def test_the_kernel_names_this_systems_mounts() -> None:
    """/proc is of type proc, and local to this host."""
    assert _mount.file_system("/proc") == "proc"
    assert not _mount.may_be_shared("/proc")


def test_a_missing_path_is_an_error(tmp_path: Path) -> None:
    """Nothing is guessed about a path that does not exist."""
    with pytest.raises(FileNotFoundError):
        _mount.file_system(tmp_path / "nothing")


def mounted(monkeypatch: pytest.MonkeyPatch, kind: str, options: str = "rw") -> None:
    """Let everything be on a mount of this type with these options."""
    mount = Mount("/", kind, "server:/export", frozenset(options.split(",")))
    monkeypatch.setattr(_mount, "mount_of", lambda path: mount)


@pytest.mark.parametrize(
    ("kind", "shared"),
    [
        ("nfs", True), ("nfs4", True), ("lustre", True), ("gpfs", True), ("beegfs", True), ("cifs", True),
        ("smb3", True), ("fuse.glusterfs", True), ("ceph", True), ("fuse.sshfs", True), ("9p", True),
        ("virtiofs", True), ("ext4", False), ("xfs", False), ("btrfs", False), ("tmpfs", False), ("overlay", False),
        ("", False),
    ],
)  # fmt: skip
def test_network_file_systems_may_be_shared(kind: str, shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that other hosts can mount is treated as shared; a disk of this host is not."""
    mounted(monkeypatch, kind)
    assert _mount.may_be_shared("/anywhere") is shared


@pytest.mark.parametrize("table", ["", "nonsense\n", "1 2\n", "1 2 {device} / / rw no dash ext4 x rw\n"])
def test_a_strange_table_of_mounts_is_no_answer(table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel does not say is an empty string, whatever the table holds."""
    device = os.stat(tmp_path).st_dev
    (tmp_path / "mountinfo").write_text(table.format(device=f"{os.major(device)}:{os.minor(device)}"))
    real = open
    monkeypatch.setattr("builtins.open", lambda path, *args, **kw: real(tmp_path / "mountinfo", *args, **kw))
    assert _mount.file_system(tmp_path) == ""


def test_a_mount_is_read_from_the_kernels_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deepest mount point around a path counts, with spaces in it, and the options of mount and server."""
    number = os.stat(tmp_path).st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    (tmp_path / "a b").mkdir()
    point = str(tmp_path / "a b").replace(" ", "\\040")
    table = f"1 0 {device} / / rw - ext4 /dev/a rw\n2 1 {device} / {point} rw,nosuid - nfs4 s:/x rw,local_lock=all\n"
    (tmp_path / "mountinfo").write_text(table)
    real = open
    monkeypatch.setattr("builtins.open", lambda path, *args, **kw: real(tmp_path / "mountinfo", *args, **kw))
    assert _mount.mount_of(tmp_path).kind == "ext4"
    found = _mount.mount_of(tmp_path / "a b")
    assert found == Mount(str(tmp_path / "a b"), "nfs4", "s:/x", frozenset(("rw", "nosuid", "local_lock=all")))


@pytest.mark.parametrize(
    ("kind", "options", "primitive"),
    [
        ("ext4", "rw", "ofd"), ("tmpfs", "rw", "flock"), ("nfs4", "rw,vers=4.2", "ofd"), ("nfs", "rw,vers=3", "lockf"),
        ("nfs4", "rw,local_lock=flock", "ofd"), ("nfs", "rw,local_lock=posix", "flock"), ("lustre", "rw,flock", "ofd"),
        ("ceph", "rw", "ofd"), ("gpfs", "rw", "claims"), ("nfs", "rw,nolock", "claims"),
    ],
)  # fmt: skip
def test_what_is_known_to_reach_every_host_is_used(
    kind: str, options: str, primitive: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk of this host, a network file system whose locks go to its server, or locks that need no kernel."""
    mounted(monkeypatch, kind, options)
    assert _mount.rule(str(tmp_path), primitive, "ofd") == primitive


@pytest.mark.parametrize(
    ("kind", "options", "primitive", "why"),
    [
        ("gpfs", "rw", None, "doctor"), ("fuse.sshfs", "rw", None, "doctor"), ("fuse", "rw", "flock", "doctor"),
        ("beegfs", "rw", None, "doctor"), ("cifs", "rw", None, "doctor"), ("lustre", "rw", None, "without the option"),
        ("lustre", "rw,localflock", "flock", "without the option"), ("nfs", "rw,nolock", None, "nolock"),
        ("nfs4", "rw,local_lock=all", None, "local_lock=all"), ("nfs4", "rw,local_lock=flock", "flock", "one host"),
        ("nfs", "rw,local_lock=posix", "ofd", "local_lock=posix"), ("gfs2", "rw,localflocks", None, "localflocks"),
    ],
)  # fmt: skip
def test_what_may_mean_nothing_to_other_hosts_is_refused(
    kind: str, options: str, primitive: str | None, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal says why and what to do, makes nothing, and a person's word that one host alone is there lifts it."""
    mounted(monkeypatch, kind, options)
    url = f"file://{tmp_path}/space" + (f"?primitive={primitive}" if primitive else "")
    with interlock.connect(url) as session, pytest.raises(interlock.UnsafeMount, match=why) as refused:
        session.lock("a").acquire()
    assert "primitive=claims" in str(refused.value)
    assert refused.value.definite
    assert not (tmp_path / "space").exists()
    alone = f"file://{tmp_path}/alone?local=ok" + (f"&primitive={primitive}" if primitive else "")
    with interlock.connect(alone) as session, session.lock("a"):
        pass


def test_a_space_that_one_host_has_for_itself_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens it later on that host need not repeat it; another host is refused."""
    mounted(monkeypatch, "gpfs")
    path = str(tmp_path / "space")
    with interlock.connect(f"file://{path}?local=ok") as session, session.lock("a"):
        pass
    assert Space(path, None, create=False).primitive
    (tmp_path / "space" / "settings.json").write_text('{"schema": 1, "primitive": "ofd", "local": "another host"}')
    with pytest.raises(interlock.UnsafeMount):
        Space(path, None, create=False)


def test_a_verdict_decides_for_all_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What doctor measured is used by every space in the directory and below, and what it refused is refused."""
    mounted(monkeypatch, "gpfs")
    _mount.publish(str(tmp_path), {"primitive": "flock", "refused": {"ofd": "two hosts had it at once"}})
    below = str(tmp_path / "some" / "where")
    assert _mount.rule(below, None, "ofd") == "flock"
    assert _mount.verdict_for(below)["primitive"] == "flock"  # type: ignore[index]
    with pytest.raises(interlock.UnsafeMount, match="two hosts had it at once"):
        _mount.rule(below, "ofd", "ofd")
    _mount.publish(str(tmp_path), {"primitive": None, "refused": {}})
    with pytest.raises(interlock.UnsafeMount, match="no way of locking"):
        _mount.rule(below, None, "ofd")
    _mount.publish(str(tmp_path), {"primitive": None, "refused": {"claims": "a link replaced a name"}})
    with pytest.raises(interlock.UnsafeMount, match="a link replaced a name"):
        _mount.rule(below, "claims", "ofd")


def test_a_verdict_does_not_outweigh_this_hosts_own_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured on other hosts, but mounted here so that locks stay here: refused."""
    mounted(monkeypatch, "nfs", "rw,nolock")
    _mount.publish(str(tmp_path), {"primitive": "ofd", "refused": {}})
    with pytest.raises(interlock.UnsafeMount, match="nolock"):
        _mount.rule(str(tmp_path), None, "ofd")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2, "primitive": "ofd", "refused": {}}', '{"schema": 1}'])
def test_a_damaged_verdict_is_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be read decides nothing: fail closed."""
    mounted(monkeypatch, "gpfs")
    (tmp_path / _mount.VERDICT).write_text(text)
    with pytest.raises(interlock.UnsafeMount, match="cannot be read"):
        _mount.rule(str(tmp_path), None, "ofd")


def test_a_planted_verdict_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a symbolic link nor a file of somebody who does not own the directory decides for others."""
    mounted(monkeypatch, "gpfs")
    (tmp_path / "mine").write_text(json.dumps({"schema": 1, "primitive": "ofd", "refused": {}}))
    (tmp_path / _mount.VERDICT).symlink_to(tmp_path / "mine")
    with pytest.raises(interlock.UnsafeMount, match="doctor"):
        _mount.rule(str(tmp_path), None, "ofd")


def test_locks_that_exclude_nobody_even_here_are_not_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A space is tried out before it is made: two who open one file must not both have its lock."""
    primitive = _kernel_lock.PRIMITIVES["ofd"]._replace(try_lock=lambda fd: True)
    monkeypatch.setitem(_kernel_lock.PRIMITIVES, "ofd", primitive)
    with interlock.connect(f"file://{tmp_path}/space") as session, pytest.raises(interlock.UnsafeMount, match="do not"):
        session.lock("a").acquire()
    assert not (tmp_path / "space" / "settings.json").exists()
