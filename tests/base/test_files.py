import errno
import os
import stat

import pytest

from orthohash_triton._base.files import atomic_write


def test_replaces_whole_files(tmp_path):
    path = tmp_path / "file"
    for content in (b"first", b"second, longer", b""):
        with atomic_write(path) as file:
            file.write(content)
        assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["file"]


def test_nothing_is_seen_before_the_end(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new" * 100_000)
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" * 100_000


def write_half(path, error):
    with atomic_write(path) as file:
        file.write(b"half")
        raise error


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "disk full"), KeyboardInterrupt()])
def test_failure_half_way_keeps_the_old_file(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        write_half(path, error)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such modes")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_who_may_read_it_stays(tmp_path, mode):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    with atomic_write(path) as file:
        file.write(b"new")
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_failure_leaves_no_first_file(tmp_path):
    with pytest.raises(RuntimeError):
        write_half(tmp_path / "file", RuntimeError())
    assert os.listdir(tmp_path) == []


def test_is_on_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("replace"), replace(*paths)))
    with atomic_write(tmp_path / "file") as file:
        file.write(b"x")
    assert events[:2] == ["fsync", "replace"]


@pytest.mark.skipif(os.name != "posix", reason="other systems cannot open folders")
def test_the_rename_is_on_the_disk_too(tmp_path, monkeypatch):
    """The folder is flushed after the rename; without that a power failure may bring the old file back."""
    events = []
    fsync, replace = os.fsync, os.replace

    def record(descriptor):
        status = os.fstat(descriptor)
        events.append("folder" if stat.S_ISDIR(status.st_mode) and status.st_ino == tmp_path.stat().st_ino else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("rename"), replace(*paths)))
    with atomic_write(tmp_path / "file") as file:
        file.write(b"x")
    assert events == ["file", "rename", "folder"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_no_file_stays_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with atomic_write(tmp_path / "file") as file:
            file.write(b"x")
    assert len(os.listdir("/proc/self/fd")) == before


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "file"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_symbolic_link_is_followed(tmp_path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with atomic_write(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_missing_folder(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match=r"folder .*nowhere does not exist\. Create it first"),
        atomic_write(tmp_path / "nowhere" / "file"),
    ):
        pass
