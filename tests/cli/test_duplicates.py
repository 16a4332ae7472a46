"""Tests of `orthohash duplicates`."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from orthohash_triton import HammingIndex, cli
from orthohash_triton.data import perceptual
from orthohash_triton.runs.duplicates import find_duplicates, open_items

imagehash = pytest.importorskip("imagehash")

LATIN = b"caf\xe9 <b>.png"  # not UTF-8, and markup


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of four pictures; two of them have a smaller copy, one of these a third one; and a damaged file."""
    folder, noise = tmp_path_factory.mktemp("files") / "photos", np.random.default_rng(0)
    folder.mkdir()
    for number in range(4):
        picture = Image.fromarray(noise.integers(0, 255, (12, 12, 3), np.uint8)).resize((240, 200), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number}.png")
        if number < 2:
            picture.resize((120, 100)).save(folder / f"{number} small.jpg", quality=60)
        if number == 0:
            picture.save(os.path.join(os.fsencode(folder), LATIN))
    (folder / "bad.jpg").write_bytes((folder / "1 small.jpg").read_bytes()[:200])
    return folder


def call(capfd: pytest.CaptureFixture, *arguments: object, status: int = 0) -> str:
    """Call the command, and return its standard output if it succeeds, else its standard error."""
    capfd.readouterr()
    assert cli.main(["duplicates", *map(str, arguments), "--no-progress"]) == status
    out, err = capfd.readouterr()
    return err if status else out


def names(groups: list) -> list[list[str]]:
    return [[os.path.basename(member["path"]) for member in group] for group in groups]


EXPECTED = [["0 small.jpg", "0.png", os.fsdecode(LATIN)], ["1 small.jpg", "1.png"]]


def test_groups_of_images(photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    before = sorted(os.listdir(photos))
    files = [tmp_path / f"groups.{kind}" for kind in ("json", "csv", "html")]
    out = call(capfd, photos, *(each for file in files for each in ("--out", file)))
    assert "2 groups with 3 extra items among 7, within 4 of 64 bits" in " ".join(out.split())
    found = json.loads(files[0].read_text())
    assert names(found["groups"]) == EXPECTED
    assert (found["count"], found["bits"], found["radius"], found["extra"]) == (7, 64, 4, 3)
    assert [os.path.basename(file["path"]) for file in found["skipped"]] == ["bad.jpg"]
    assert found["groups"][0][0]["distance"] == 0 <= max(m["distance"] for group in found["groups"] for m in group) <= 4
    rows = list(csv.reader(files[1].read_bytes().decode("utf-8", "surrogateescape").splitlines()))
    assert rows[0] == ["group", "id", "distance", "path"]
    assert [os.path.basename(row[3]) for row in rows[1:]] == [name for group in EXPECTED for name in group]
    assert [row[0] for row in rows[1:]] == ["0", "0", "0", "1", "1"]
    page = files[2].read_text()
    assert page.count("data:image/jpeg;base64,") == 5
    assert r"caf\xe9 &lt;b&gt;.png" in page
    assert "<b>" not in page
    assert "://" not in page
    assert "bad.jpg" in page
    assert "default-src 'none'" in page
    assert sorted(os.listdir(photos)) == before


def test_same_hash_as_imagehash(photos: Path) -> None:
    """Decoding to 128 x 128 pixels first changes few bits at most."""
    found = perceptual.hash_images(photos)
    for path, code in zip(found.paths, found.codes, strict=True):
        with Image.open(path) as picture:
            theirs = imagehash.phash(picture).hash.ravel()
        assert (np.unpackbits(code.numpy(), bitorder="little") != theirs).sum() <= 4


def test_list_extra(photos: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture) -> None:
    extra = [os.path.join(os.fsencode(photos), os.fsencode(name)) for group in EXPECTED for name in group[1:]]
    for options, end in (([], b"\n"), (["-0"], b"\0"), (["--null", "--out", str(tmp_path / "x.json")], b"\0")):
        assert cli.main(["duplicates", str(photos), "--list-extra", "--no-progress", *options]) == 0
        assert capfdbinary.readouterr().out == b"".join(name + end for name in extra)
    assert (tmp_path / "x.json").exists()


def test_codes_of_every_kind(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    codes = np.zeros((6, 8), np.uint8)
    codes[1], codes[2, 0], codes[4], codes[5] = 255, 1, 85, 255
    np.save(tmp_path / "codes.npy", codes)
    found = json.loads(call(capfd, tmp_path / "codes.npy", "--radius", 1, "--json"))
    assert [[(m["id"], m["distance"]) for m in group] for group in found["groups"]] == [
        [(0, 0), (2, 1), (3, 0)],
        [(1, 0), (5, 0)],
    ]
    assert call(capfd, tmp_path / "codes.npy", "--radius", 1, "--list-extra") == "2\n3\n5\n"
    index = HammingIndex(64)
    index.add_with_ids(torch.from_numpy(codes), torch.tensor([30, 10, 20, 50, 40, 60]))
    index.save(tmp_path / "codes.ibxf")
    assert call(capfd, tmp_path / "codes.ibxf", "--radius", 0, "--list-extra") == "50\n60\n"
    of_run = json.loads(call(capfd, run, "--radius", 0, "--json", "--out", tmp_path / "run.html"))
    assert of_run["bits"] == 16
    assert of_run["groups"]
    assert "data:image/png;base64," in (tmp_path / "run.html").read_text()
    page = tmp_path / "codes.html"
    call(capfd, tmp_path / "codes.npy", "--radius", 0, "--out", page)
    assert page.read_text().count("no picture") == 4


def test_nothing_is_near(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    np.save(tmp_path / "codes.npy", np.array([[0], [255]], np.uint8))
    assert "0 groups with 0 extra items among 2" in call(capfd, tmp_path / "codes.npy", "--out", tmp_path / "x.html")
    assert "No near-duplicates" in (tmp_path / "x.html").read_text()
    assert call(capfd, tmp_path / "codes.npy", "--list-extra") == ""


def test_many_groups_and_members(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """Table and page are limited; the page shows the largest groups first, the files hold everything."""
    codes = np.repeat(np.arange(250, dtype=np.uint8), 2)
    codes = np.concatenate((codes, np.full(20, 249, np.uint8)))[:, None]
    np.save(tmp_path / "codes.npy", codes)
    out = call(capfd, tmp_path / "codes.npy", "--radius", 0, "--out", tmp_path / "x.html", "--out", tmp_path / "x.json")
    assert "230 more groups" in out
    page = (tmp_path / "x.html").read_text()
    assert page.count("<section") == 200
    assert "Group 1: 22 items" in page
    assert "200 largest of 250 groups" in page
    assert "At most 12 items" in page
    assert len(json.loads((tmp_path / "x.json").read_text())["groups"]) == 250


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["EMPTY"], "empty has no images"),
        (["nothing-here"], "nothing-here does not exist"),
        (["digits"], "digits has no image files. Name a folder"),
        (["PHOTOS", "--radius", "65"], "radius must be between 0 and 64; got 65"),
        (["PHOTOS", "--radius=-1"], "radius must be between 0 and 64; got -1"),
        (["CODES", "--radius", "17"], "radius must be between 0 and 16; got 17"),
        (["CODES", "--hash", "phash"], "hash is for images; .*codes.npy has codes already"),
        (["PHOTOS", "--out", "groups.txt"], r"--out must end in .json, .csv or .html; got groups.txt"),
        (["PHOTOS", "--out", "no/such/x.json"], "the folder no/such of --out does not exist"),
        (["PHOTOS", "--json", "--list-extra"], "--list-extra and --json both write"),
        (["PHOTOS", "-0"], "-0 is for --list-extra"),
        (["BROKEN"], "none of the 2 images of .*broken can be read: .*the file is empty"),
    ],
)
def test_bad_input(arguments: list[str], message: str, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    for folder in ("empty", "broken"):
        (tmp_path / folder).mkdir()
    for name in ("1.png", "2.jpg"):
        (tmp_path / "broken" / name).touch()
    np.save(tmp_path / "codes.npy", np.zeros((3, 2), np.uint8))
    places = {"EMPTY": tmp_path / "empty", "PHOTOS": photos, "CODES": tmp_path / "codes.npy", "BROKEN": tmp_path / "broken"}
    err = call(capfd, *(places.get(argument, argument) for argument in arguments), status=2)
    assert len(err.splitlines()) == 1
    assert re.search(message, err)


def test_missing_packages(photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagehash", None)
    monkeypatch.setitem(sys.modules, "pdqhash", None)
    assert 'the hash phash needs imagehash: pip install "imagehash' in call(capfd, photos, status=2)
    assert "the hash pdq needs pdqhash: pip install pdqhash" in call(capfd, photos, "--hash", "pdq", status=2)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert "jinja2" in call(capfd, photos, "--out", tmp_path / "x.html", status=2)
    assert not (tmp_path / "x.html").exists()


def test_names_with_line_breaks_need_zero_bytes(tmp_path: Path) -> None:
    """Codes whose file names hold a line break cannot be written one per line."""
    from orthohash_triton.cli.duplicates import _extra_lines
    from orthohash_triton.runs.duplicates import Items

    found = find_duplicates(Items("toy", torch.zeros(2, 8, dtype=torch.uint8), [0, 1], ("a", "b\nc")), 0)
    with pytest.raises(ValueError, match="line break; add -0"):
        _extra_lines(found, null=False)
    assert _extra_lines(found, null=True) == b"b\nc\0"


def test_files_stay_whole_if_a_write_fails(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while the page is made leaves the old page."""
    from orthohash_triton import report

    page = tmp_path / "x.html"
    page.write_text("old")
    found = find_duplicates(open_items(photos), 4)

    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("orthohash_triton.report._duplicates.render_duplicates", fail)
    with pytest.raises(OSError, match="disk full"):
        report.write_duplicates(found, page)
    assert page.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.html"]


def test_pdq(photos: Path) -> None:
    pytest.importorskip("pdqhash")
    found = find_duplicates(open_items(photos, hash="pdq"), 40)
    assert found.items.codes.shape == (7, 32)
    assert [len(group.positions) for group in found.groups] == [3, 2]


@pytest.mark.slow
def test_output_to_a_pipe(photos: Path) -> None:
    """The bytes of names that are not UTF-8 reach the next program."""
    command = [sys.executable, "-m", "orthohash_triton.cli", "duplicates", str(photos), "--list-extra", "-0", "--no-progress"]
    out = subprocess.run(command, capture_output=True, check=True, env=os.environ | {"LC_ALL": "C.UTF-8"}).stdout
    assert os.path.join(os.fsencode(photos), LATIN) in out.split(b"\0")
