"""Which file system a path is on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from interlock.stores import _mount


def test_the_kernel_names_this_systems_mounts() -> None:
    """/proc is of type proc, and local to this host."""
    assert _mount.file_system("/proc") == "proc"
    assert not _mount.may_be_shared("/proc")


def test_a_missing_path_is_an_error(tmp_path: Path) -> None:
    """Nothing is guessed about a path that does not exist."""
    with pytest.raises(FileNotFoundError):
        _mount.file_system(tmp_path / "nothing")


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
    monkeypatch.setattr(_mount, "file_system", lambda path: kind)
    assert _mount.may_be_shared("/anywhere") is shared


@pytest.mark.parametrize("table", ["", "nonsense\n", "1 2\n", "1 2 {device} / / rw no dash ext4 x rw\n"])
def test_a_strange_table_of_mounts_is_no_answer(table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel does not say is an empty string, whatever the table holds."""
    device = os.stat(tmp_path).st_dev
    (tmp_path / "mountinfo").write_text(table.format(device=f"{os.major(device)}:{os.minor(device)}"))
    real = open
    monkeypatch.setattr("builtins.open", lambda path, *args, **kw: real(tmp_path / "mountinfo", *args, **kw))
    assert _mount.file_system(tmp_path) == ""
