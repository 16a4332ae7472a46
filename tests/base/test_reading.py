import errno
import json
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from orthohash_triton._base.reading import READERS, naming_in_system_errors, reader


class PanicException(BaseException):
    """An exception like the one of parsers in Rust."""


PanicException.__module__ = "pyo3_runtime"


def read(path, error):
    """Call a reader of `path` that raises `error`."""

    @reader("file of numbers", advice="Write it again")
    def read_numbers(path):
        raise error

    return read_numbers(path)


@pytest.mark.parametrize(
    "error",
    [
        RecursionError("maximum recursion depth exceeded"),
        OverflowError("Python int too large to convert to C long"),
        MemoryError(),
        struct.error("unpack requires a buffer of 4 bytes"),
        zipfile.BadZipFile("File is not a zip file"),
        zlib.error("Error -3 while decompressing data"),
        KeyError("features"),
        AttributeError("'list' object has no attribute 'get'"),
        AssertionError(),
        EOFError("No data left in file"),
        UnicodeDecodeError("utf-8", b"a\xff", 1, 2, "invalid start byte"),
        json.JSONDecodeError("Expecting value", "", 0),
        ValueError("cannot reshape array"),
        RuntimeError("PytorchStreamReader failed"),
        OSError("Couldn't deserialize thrift"),
        OSError(errno.EINVAL, "Invalid argument"),
        PanicException("index out of bounds"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_parsers_become_a_value_error_with_the_name_of_the_file(error):
    with pytest.raises(ValueError) as raised:
        read("numbers.bin", error)
    assert type(raised.value) is ValueError
    assert raised.value.__cause__ is error
    message = str(raised.value)
    assert message.startswith("numbers.bin is not a readable file of numbers (")
    assert message.endswith("). Write it again")
    assert "\n" not in message


@pytest.mark.parametrize(
    "error",
    [
        ValueError("numbers.bin: expected ten numbers; got nine"),
        FileNotFoundError("there is no file numbers.bin"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "numbers.bin"),
        ImportError("pip install numbers"),
        KeyboardInterrupt(),
        SystemExit(1),
    ],
    ids=lambda error: type(error).__name__,
)
def test_clear_errors_pass_unchanged(error):
    with pytest.raises(type(error)) as raised:
        read(Path("numbers.bin"), error)
    assert raised.value is error


@pytest.mark.parametrize("path", ["a", "npy", "./a"])
def test_a_short_name_is_not_mistaken_for_a_word_of_the_message(path):
    with pytest.raises(ValueError, match=rf"^{path} is not a readable file of numbers \(not a npy file\)"):
        read(path, ValueError("not a npy file"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_errors_of_the_system_name_the_file(number):
    with pytest.raises(OSError) as raised:
        read("numbers.bin", OSError(number, "a reason"))
    assert raised.value.errno == number
    assert str(raised.value) == f"[Errno {number}] a reason: 'numbers.bin'"


def test_a_system_error_keeps_the_name_that_it_has():
    with pytest.raises(OSError, match=r"No space left on device: 'other.bin'"), naming_in_system_errors("numbers.bin"):
        raise OSError(errno.ENOSPC, "No space left on device", "other.bin")


def test_an_error_is_named_once_by_the_innermost_reader(tmp_path):
    @reader("array")
    def read_array(path):
        return np.load(path, allow_pickle=False)

    @reader("folder of arrays")
    def read_folder(path):
        return read_array(tmp_path / "labels.npy")

    (tmp_path / "labels.npy").write_bytes(b"\x93NUMPY\x01\0\x02\0{\n")
    with pytest.raises(ValueError) as raised:
        read_folder("another/place")
    assert str(raised.value).startswith(f"{tmp_path / 'labels.npy'} is not a readable array (")
    assert "another/place" not in str(raised.value)


def test_the_argument_of_the_file_can_be_any_and_methods_have_self():
    class Store:
        @reader("store", argument="place")
        def read(self, count, *, place="store.bin"):
            raise KeyError(count)

    with pytest.raises(ValueError, match=r"^other is not a readable store"):
        Store().read(1, place="other")
    with pytest.raises(ValueError, match=r"^store.bin is not a readable store \(KeyError: 1\)$"):
        Store().read(1)


def test_an_argument_that_is_no_path_is_a_mistake_of_the_caller():
    with pytest.raises(KeyError):
        read(5, KeyError("x"))


def test_a_generator_cannot_be_a_reader():
    with pytest.raises(TypeError, match="generator"):

        @reader("lines")
        def read_lines(path):
            yield path


def test_readers_are_registered():
    @reader("thing")
    def read_thing(path):
        return path

    name = f"{__name__}.test_readers_are_registered.<locals>.read_thing"
    assert READERS.pop(name) == "thing"
    assert read_thing("x") == "x"
