import errno
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from orthohash_triton._base.files import atomic_write

from ..kills import kill_at_every_call, needs_fork


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


# ---- devices, pipes, temporary files ------------------------------------------------------------------------------------------

posix = pytest.mark.skipif(os.name != "posix", reason="other systems have no such files")


@posix
def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    received = []
    reading = threading.Thread(target=lambda: received.append(path.read_bytes()))
    reading.start()
    with atomic_write(path) as file:
        file.write(b"through the pipe")
    reading.join()
    assert received == [b"through the pipe"]
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


@posix
def test_a_device_stays_a_device():
    with atomic_write("/dev/null") as file:
        file.write(b"x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_folder_is_not_replaced(tmp_path):
    with pytest.raises(IsADirectoryError, match="it is a folder"), atomic_write(tmp_path):
        pass


@posix
def test_the_temporary_file_is_as_private_as_the_old_file_from_its_creation(tmp_path, monkeypatch):
    path = tmp_path / "secret"
    path.write_bytes(b"old")
    path.chmod(0o600)
    modes = []
    opened = os.open

    def recorded(name, *arguments):
        descriptor = opened(name, *arguments)
        if str(name).endswith(".tmp"):
            modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return descriptor

    monkeypatch.setattr(os, "open", recorded)
    with atomic_write(path) as file:
        file.write(b"new")
    assert modes == [0o600]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_long_names(tmp_path):
    name = "n" * 250
    for content in (b"first", b"second"):
        with atomic_write(tmp_path / name) as file:
            file.write(content)
    assert (tmp_path / name).read_bytes() == b"second"
    assert os.listdir(tmp_path) == [name]


def test_what_killed_processes_have_left_is_removed(tmp_path):
    """Dead processes have left files in three places, and a live one, this test, writes in the first."""
    path = tmp_path / "file"
    for place in (0, 1, 3):
        (tmp_path / f".file.{place}.tmp").write_bytes(b"half")
    with atomic_write(path):
        (tmp_path / ".file.1.tmp").write_bytes(b"half")
        with atomic_write(path) as second:
            second.write(b"second")
            assert sorted(os.listdir(tmp_path)) == [".file.0.tmp", ".file.1.tmp"]
        assert sorted(os.listdir(tmp_path)) == [".file.0.tmp", "file"]
    assert os.listdir(tmp_path) == ["file"]


def test_many_writers_of_one_file(tmp_path):
    """Each result is the whole content of one of them, and nothing is left."""
    path = tmp_path / "file"

    def write(letter):
        for _ in range(20):
            with atomic_write(path) as file:
                file.write(letter * 10_000)
            assert path.read_bytes() in [b"a" * 10_000, b"b" * 10_000, b"c" * 10_000]

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, (b"a", b"b", b"c")))
    assert os.listdir(tmp_path) == ["file"]


@posix
def test_an_error_without_a_name_gets_one(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: .*file"), atomic_write(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")


@needs_fork
def test_killed_at_every_call(tmp_path):
    path = tmp_path / "file"

    def act():
        with atomic_write(path) as file:
            file.write(b"new" * 10_000)

    def check():
        assert path.read_bytes() in (b"old", b"new" * 10_000)
        act()
        assert os.listdir(tmp_path) == ["file"]

    assert kill_at_every_call(act, lambda: path.write_bytes(b"old"), check) >= 6
