import json
import os
from pathlib import Path

import pytest

from orthohash_triton._base import file_set
from orthohash_triton._base.file_set import FileSet, discard, read_note, replacing, updating, write_note

from ..kills import kill_at_every_call, needs_fork


@pytest.fixture
def note(tmp_path: Path) -> Path:
    return tmp_path / "note.json"


def write(note: Path, content: dict, **files: bytes) -> None:
    with replacing(note, content) as new:
        for name, value in files.items():
            with new.create(name) as file:
                file.write(value)


def read(note: Path) -> tuple[dict, dict[str, bytes]]:
    found = FileSet(note)
    return found.content, {name: found.path(name).read_bytes() for name in found}


def listing(note: Path) -> set[str]:
    return set(os.listdir(note.parent))


OLD = ({"n": 1}, {"a": b"old a", "b": b"old b"})
NEW = ({"n": 2}, {"a": b"new a" * 1000, "c": b"new c"})


def test_a_set_replaces_another(note: Path) -> None:
    for content, files in (OLD, NEW, OLD, NEW):
        write(note, content, **files)
        assert read(note) == (content, files)
        assert listing(note) == {"note.json", *files}
        assert all((note.parent / name).read_bytes() == value for name, value in files.items())


def test_a_part_of_a_set_is_replaced(note: Path) -> None:
    write(note, *OLD[:1], **OLD[1])
    with updating(note) as new:
        with new.create("c") as file:
            file.write(b"c")
        new.remove("a")
    assert read(note) == ({"n": 1}, {"b": b"old b", "c": b"c"})
    assert listing(note) == {"note.json", "b", "c"}


def test_an_error_leaves_the_old_set(note: Path) -> None:
    write(note, *OLD[:1], **OLD[1])
    with pytest.raises(ZeroDivisionError), replacing(note, {"n": 2}) as new, new.create("a") as file:
        file.write(b"n" + b"ew" * (1 // 0))
    assert read(note) == OLD
    assert listing(note) == {"note.json", *OLD[1]}


@pytest.mark.parametrize("step", ["write_note", "settle"])
def test_an_interruption_around_the_note_leaves_one_of_the_sets(note: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """The note is replaced, but the call is interrupted before it returns, or while the files get their names."""
    write(note, *OLD[:1], **OLD[1])
    owner = file_set if step == "write_note" else FileSet
    done = getattr(owner, step)

    def interrupted(*arguments):
        if step == "write_note" or FileSet(note).content == NEW[0]:
            if step == "write_note":
                done(*arguments)
            raise KeyboardInterrupt
        done(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(owner, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(note, *NEW[:1], **NEW[1])
    assert read(note) == NEW
    write(note, *OLD[:1], **OLD[1])
    assert read(note) == OLD
    assert listing(note) == {"note.json", *OLD[1]}


@needs_fork
@pytest.mark.parametrize("change", ["replace", "update"])
def test_killed_at_every_call(note: Path, change: str) -> None:
    updated = ({"n": 1}, {"b": b"old b", "c": b"new c"})

    def act() -> None:
        if change == "replace":
            write(note, *NEW[:1], **NEW[1])
        else:
            with updating(note) as new:
                with new.create("c") as file:
                    file.write(b"new c")
                new.remove("a")

    def check() -> None:
        seen.append(read(note))
        assert seen[-1] in (OLD, NEW if change == "replace" else updated)
        write(note, *NEW[:1], **NEW[1])
        assert read(note) == NEW
        assert listing(note) == {"note.json", "a", "c"}

    seen: list = []
    assert kill_at_every_call(act, lambda: write(note, *OLD[:1], **OLD[1]), check) > 15
    assert OLD in seen


def test_a_file_that_is_another_is_refused(note: Path) -> None:
    write(note, {}, a=b"abc")
    for value, message in ((b"abcd", "it has 4 bytes, expected 3"), (b"abd", "its checksum is .*, expected 352441c2")):
        (note.parent / "a").write_bytes(value)
        with pytest.raises(ValueError, match=rf"a is not the file that .*note\.json names: {message}\. It is damaged"):
            FileSet(note).path("a")
    assert FileSet(note).path("a", check=False) == note.parent / "a"
    (note.parent / "a").unlink()
    with pytest.raises(FileNotFoundError, match=r"a is missing; .*note\.json names it"):
        FileSet(note).path("a")


def test_every_flipped_bit_of_a_note_is_refused_or_harmless(note: Path) -> None:
    write(note, {"name": "cat", "sizes": [1, 2.5], "nothing": None}, a=b"abc")
    good, before = note.read_bytes(), FileSet(note)
    harmless = 0
    for bit in range(8 * len(good)):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        note.write_bytes(damaged)
        try:
            found = FileSet(note)
        except ValueError as error:
            assert str(note) in str(error)  # noqa: PT017
            continue
        harmless += 1
        assert {name: found.content[name] for name in before.content} == before.content
        assert found.entry("a") == before.entry("a")
    assert harmless < 200  # spaces that become line breaks, and the name of the checksum itself


def test_a_note_that_was_edited_says_so(note: Path) -> None:
    write_note(note, {"bits": 8})
    edited = json.loads(note.read_bytes()) | {"bits": 16}
    note.write_text(json.dumps(edited))
    with pytest.raises(ValueError, match=r"is damaged or was edited: .* If you have edited it, remove that entry"):
        read_note(note)
    del edited["crc32"]
    note.write_text(json.dumps(edited))
    assert read_note(note) == {"bits": 16}


def test_names_that_leave_the_folder_are_refused(note: Path) -> None:
    write(note, {}, a=b"abc")
    content = json.loads(note.read_bytes())
    del content["crc32"]
    for name in ("../a", "/etc/passwd", "", "..", "x/y"):
        write_note(note, {"files": {name: content["files"]["a"]}})
        with pytest.raises(ValueError, match="is not the name of a file in its folder"):
            FileSet(note)
        write_note(note, {"files": {}, "removed": [name]})
        with pytest.raises(ValueError, match="is not the name of a file in its folder"):
            FileSet(note)


def test_files_that_a_note_of_before_does_not_name_are_adopted(note: Path) -> None:
    write_note(note, {"n": 1})
    (note.parent / "a").write_bytes(b"a")
    with updating(note, adopting=("a", "b")) as new, new.create("c") as file:
        file.write(b"c")
    assert read(note) == ({"n": 1}, {"a": b"a", "c": b"c"})


def test_a_note_is_forgotten(note: Path) -> None:
    write(note, {}, a=b"abc")
    discard(note)
    assert listing(note) == {"a"}
