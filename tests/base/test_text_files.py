from pathlib import Path

import pytest

from orthohash_triton._base.text_files import read_text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes("a\r\nü €\rb\n".encode(encoding))
    assert read_text(tmp_path / "x.txt") == "a\nü €\nb\n"


@pytest.mark.parametrize("mark", ["utf-16-be", "utf-32-be"])
def test_big_endian_marks(mark: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes("\ufeffaü".encode(mark))
    assert read_text(tmp_path / "x.txt") == "aü"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a\xff", "not text in UTF-8: byte 0xff at position 1"),
        (b"\xff\xfea", "not text in UTF-16"),
        ("text".encode("utf-16-le"), "holds zero bytes"),
        (b"a\0b", "holds zero bytes"),
    ],
)
def test_other_files(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.txt is not a readable text file \(it (is )?{reason}.*Save it as text in UTF-8"):
        read_text(tmp_path / "x.txt")


def test_names_of_files_may_hold_any_bytes(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"B\xe4r")
    assert read_text(tmp_path / "x.txt", any_names=True) == "B\udce4r"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"x\.txt"):
        read_text(tmp_path / "x.txt")
