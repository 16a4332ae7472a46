"""Tests of the report of a run: correct figures, a note for everything that is missing, and no external resources."""

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("jinja2")
pytest.importorskip("sklearn")
pytest.importorskip("PIL")

from safetensors.torch import load_file, save_file

from orthohash_triton import HammingIndex, cli, metrics, report
from orthohash_triton.data import digits
from orthohash_triton.report import _page, _wall, write_report
from orthohash_triton.runs import load_run
from orthohash_triton.runs.run import Run
from orthohash_triton.runs.samples import Samples
from tests.kills import kill_at_every_call, needs_fork
from tests.notes import forget_files
from tests.pages import features_file, image_folder, make_run


class Page(HTMLParser):
    """The text of a page, its elements and their attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._within = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._within = tag

    def handle_data(self, data: str) -> None:
        if self._within not in ("style", "script"):
            self.text += data

    def all(self, tag: str, css_class: str = "") -> list[dict[str, str | None]]:
        wanted = set(css_class.split())
        return [found for name, found in self.elements if name == tag and wanted <= set((found.get("class") or "").split())]

    @property
    def wall(self) -> list[dict[str, str | None]]:
        return [image for image in self.all("img") if image.get("id") != "sprite"]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("small")
    return make_run(folder / "run", features_file(folder / "f.npz", np.arange(80) % 4, list("abcd")), method="lsh")


@pytest.fixture(scope="module")
def reported(digits_run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    path = tmp_path_factory.mktemp("report") / "report.html"
    return write_report(digits_run, path, queries=7), path


def test_the_figures_are_those_of_the_metrics(digits_run: Run, reported: tuple[dict, Path]) -> None:
    found, path = reported
    query = digits.load_splits(0).query
    sides = digits_run.model.encode(query.inputs), digits_run.index.codes, query.labels, digits_run.gallery_labels
    retrieval = found["retrieval"]
    assert retrieval["map_at_all"] == metrics.mean_average_precision(*sides)
    assert retrieval["curves"]["precision_at_n"]["10"] == metrics.precision_at_k(*sides, k=10)
    assert retrieval["precision_at_radius_2"] == digits_run.metrics["evaluation"]["precision_at_radius_2"]
    first = next(entry for entry in retrieval["classes"] if entry["class"] == "3")
    own = query.labels == 3
    assert first["queries"] == int(own.sum())
    assert first["map"] == pytest.approx(metrics.mean_average_precision(sides[0][own], sides[1], sides[2][own], sides[3]))
    assert [entry["map"] for entry in retrieval["classes"]] == sorted((e["map"] for e in retrieval["classes"]), reverse=True)
    assert retrieval["chance"] == pytest.approx(0.1, abs=0.01)
    ones = np.unpackbits(digits_run.index.codes.numpy(), axis=1, bitorder="little")
    assert found["bits"]["mean"] == pytest.approx(ones.mean(0).tolist())
    text = Page(path).text
    assert f"{retrieval['map_at_all']:.3f}" in text
    assert f"{retrieval['separability']:.1f} bits" in text


def test_every_part_is_there(reported: tuple[dict, Path]) -> None:
    found, path = reported
    page = Page(path)
    assert path.stat().st_size < 3_000_000
    headings = re.findall(r"<h[123][^>]*>([^<]+)</h[123]>", path.read_text())
    assert {
        "OrthoHash, 16 bits", "Nearest neighbours", "Hardest queries", "Precision and recall", "Classes",
        "Precision at N", "Distances", "Balance of the bits", "Correlation of the bits",
        "Neighbourhoods (t-SNE)", "Principal components", "Loss", "Validation", "Bit accuracy in training", "Configuration",
    } <= set(headings)  # fmt: skip
    assert found["notes"] == []
    assert "Missing data" not in page.text
    assert len(page.all("figure", "chart")) == len(page.all("details")) == 11  # a table of figures with every chart
    assert len(page.all("circle")) > 2 * 359  # the queries, twice
    for number in (found["history"][0]["loss"], found["retrieval"]["classes"][-1]["map"]):
        assert f"{number:.4f}" in page.text


def test_figures_of_the_training_set_are_not_called_validation() -> None:
    measured = [{"epoch": 1, "loss": 2.0, "bit_accuracy": 0.75, "validation_map": None}]
    assert [chart.title for chart in _page.training_charts(measured)] == ["Loss", "Bit accuracy in training"]
    measured[0] |= {"bit_accuracy": None, "validation_map": 0.5}
    assert [chart.title for chart in _page.training_charts(measured)] == ["Loss", "Validation"]
    measured[0]["bit_accuracy"] = 0.75
    validation = _page.training_charts(measured)[1]
    assert [line.name for line in validation.lines] == ["validation mAP"]


def test_the_wall_says_right_and_wrong_in_words_marks_and_frames(digits_run: Run, reported: tuple[dict, Path]) -> None:
    page = Page(reported[1])
    rows = 7 + 6
    assert len(page.all("figure", "tile query")) == rows
    assert len(page.all("figure", "tile")) == len(page.wall) == 11 * rows
    verdicts = [(tile.get("class") or "").split()[1] for tile in page.all("figure", "tile")]
    words = [image["alt"] or "" for image in page.wall]
    own = ""
    for verdict, text in zip(verdicts, words, strict=True):
        digit = text.rpartition(": ")[2]
        if verdict == "query":
            own = digit
        else:
            assert verdict == ("right" if digit == own else "wrong")
            assert ("same class" if verdict == "right" else "another class") in text
    assert 0 < verdicts.count("wrong") < verdicts.count("right")
    assert len(page.all("span", "mark right")) == verdicts.count("right") + 2  # and once in each key
    met = list(dict.fromkeys(digits.load_splits(0).query.labels.tolist()))
    queries = [text for text, verdict in zip(words, verdicts, strict=True) if verdict == "query"]
    assert queries[:7] == [f"query: {digit}" for digit in sorted(met[:7])]  # the first query of each class
    assert len(set(queries[7:])) == 6  # then the hardest queries, each of another class


def test_nothing_comes_from_elsewhere(reported: tuple[dict, Path]) -> None:
    page = Page(reported[1])
    (policy,) = [tag["content"] for tag in page.all("meta") if tag.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    linked = [value for _, found in page.elements for key, value in found.items() if key in ("src", "href", "srcset", "action")]
    assert linked
    assert all(value is not None and value.startswith(("data:", "#")) for value in linked)
    assert not re.search(r"url\((?!\$\{sprite)|@import", reported[1].read_text())


def test_kept_queries_give_the_figures_of_encoded_ones(small_run: Run, tmp_path: Path) -> None:
    kept = write_report(small_run, tmp_path / "kept.html", queries=1)
    copy = tmp_path / "run"
    shutil.copytree(small_run.path, copy)
    (copy / "queries.safetensors").unlink()
    found = write_report(load_run(copy), tmp_path / "report.html", queries=1)
    assert found["retrieval"] == kept["retrieval"]


def test_queries_of_another_length_are_an_error(small_run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(small_run.path, copy)
    save_file({"codes": torch.zeros(3, 4, dtype=torch.uint8), "labels": torch.zeros(3).long()}, copy / "queries.safetensors")
    with pytest.raises(ValueError, match=r"queries\.safetensors is not the file that .*config\.json names"):
        write_report(load_run(copy), tmp_path / "report.html")
    forget_files(copy / "config.json")
    with pytest.raises(ValueError, match=r"must hold codes uint8 \[Q, 2\] and labels; make it again with `orthohash evaluate"):
        write_report(load_run(copy), tmp_path / "report.html")


@needs_fork
def test_killed_at_every_call(small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, page = tmp_path / "report.html", "<p>new</p>" * 5000
    monkeypatch.setattr(report, "_make", lambda *arguments: ({}, page))

    def check() -> None:
        assert path.read_text() in ("old", page)
        write_report(small_run, path)
        assert [file.name for file in tmp_path.iterdir()] == [path.name]

    assert kill_at_every_call(lambda: write_report(small_run, path), lambda: path.write_text("old"), check) > 6


def test_features_with_several_classes_each(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random((300, 5)) < 0.3).astype(np.int64)
    names = ["a<b>&\"c'", "two", "three", "four", "five"]
    run = make_run(tmp_path / "run", features_file(tmp_path / "f.npz", labels, names), method="lsh")
    found = write_report(run, tmp_path / "report.html", queries=5)
    page = Page(tmp_path / "report.html")
    assert found["notes"] == []  # features have no pictures, so none are missing
    assert page.wall == []
    assert not any(image.get("id") == "sprite" for image in page.all("img"))
    assert len(page.all("span", "blank")) == len(page.all("figure", "tile")) == 11 * (5 + 5)
    assert names[0] in page.text  # the names are escaped
    assert "a<b>" not in (tmp_path / "report.html").read_text()
    assert found["history"] == []
    assert "Training" not in re.findall(r"<h2[^>]*>([^<]+)</h2>", (tmp_path / "report.html").read_text())
    kept = load_file(run.path / "queries.safetensors")
    expected = metrics.mean_average_precision(kept["codes"], run.index.codes, kept["labels"], run.gallery_labels)
    assert found["retrieval"]["map_at_all"] == expected


def test_an_image_is_right_when_it_shares_a_class() -> None:
    labels = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1]]).bool()
    gallery = Samples(torch.tensor([[0], [1], [3], [7], [15]], dtype=torch.uint8), labels, ("a", "b", "c"))
    query = Samples(torch.zeros(1, 1, dtype=torch.uint8), labels[:1], ("a", "b", "c"))
    index = HammingIndex(8)
    index.add(gallery.codes)
    (row,) = _wall.find_neighbours(index, gallery, query, [0])
    assert [(tile.distance, tile.verdict) for tile in row.neighbours] == [
        (0, "right"), (1, "right"), (2, "wrong"), (3, "wrong"), (4, "right")
    ]  # fmt: skip
    assert row.right == 3
    assert [tile.classes for tile in row.neighbours] == ["a, b", "b", "c", "no class", "a, b +1"]


def test_without_classes_nothing_is_called_right_or_wrong(tmp_path: Path) -> None:
    file = features_file(tmp_path / "f.npz", np.zeros(60, np.int64), ["unlabelled"])
    run = make_run(tmp_path / "run", file, method="pca", bits=8, evaluated=False)
    found = write_report(run, tmp_path / "report.html", queries=3)
    page = Page(tmp_path / "report.html")
    assert found["retrieval"] is None
    assert not page.all("span", "mark")
    assert "mAP@all" not in page.text
    assert len(page.all("figure", "tile")) == 11 * 3
    assert "Balance of the bits" in page.text


def test_images_that_have_moved(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "photos", ["cat", "dog <3"])
    run = make_run(tmp_path / "run", folder, method="lsh", bits=8, query_fraction=0.25)
    whole = write_report(run, tmp_path / "report.html", queries=2)
    assert whole["notes"] == []
    assert len(Page(tmp_path / "report.html").wall) == 2 * 11 + 2 * 11
    folder.rename(tmp_path / "elsewhere")
    moved = write_report(load_run(run.path), tmp_path / "moved.html", queries=2)
    page = Page(tmp_path / "moved.html")
    assert moved["retrieval"] == whole["retrieval"]
    assert page.wall == []
    assert len(page.all("span", "blank")) == 4 * 11
    assert "44 of the 44 images on this page could not be read" in page.text
    assert str(folder) in page.text


def test_a_data_set_that_is_gone(tmp_path: Path) -> None:
    file = features_file(tmp_path / "f.npz", np.arange(80) % 4, list("abcd"))
    run = make_run(tmp_path / "run", file, method="lsh", bits=8, evaluated=False)
    file.unlink()
    found = write_report(load_run(run.path), tmp_path / "report.html", queries=4)
    page = Page(tmp_path / "report.html")
    assert len(found["notes"]) == 1
    assert "cannot be read here" in page.text
    assert found["retrieval"] is None
    assert found["run"]["queries"] == 0
    assert "A sample of the gallery as queries" in page.text
    assert len(page.all("figure", "tile")) == 11 * 4
    assert len(page.all("span", "mark right")) > 1  # the run folder has the classes


def test_a_data_set_that_has_changed(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "photos", ["a", "b"])
    run = make_run(tmp_path / "run", folder, method="lsh", bits=8, evaluated=False)
    shutil.move(next((folder / "a").iterdir()), folder / "b" / "moved.png")
    found = write_report(load_run(run.path), tmp_path / "report.html", queries=1)
    assert any("has changed: it is not the one that" in note for note in found["notes"])


def test_a_query_from_the_gallery_does_not_find_itself(tmp_path: Path) -> None:
    file = features_file(tmp_path / "f.npz", np.arange(6) % 2, ["a", "b"])
    run = make_run(tmp_path / "run", file, method="lsh", bits=16, evaluated=False, query_fraction=0.3)
    file.unlink()
    write_report(load_run(run.path), tmp_path / "report.html", queries=2)
    assert len(Page(tmp_path / "report.html").all("figure", "tile")) == 2 * run.index.ntotal


def test_the_smallest_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", features_file(tmp_path / "f.npz", np.array([0, 0]), ["a", "b"]), method="lsh", bits=8)
    found = write_report(run, tmp_path / "report.html")
    assert (found["run"]["gallery"], found["run"]["queries"]) == (1, 1)
    assert found["retrieval"]["map_at_all"] == 1
    assert found["retrieval"]["separability"] is None  # there are no pairs of two classes
    assert len(Page(tmp_path / "report.html").all("figure", "tile")) == 2 * 2


def test_the_command(small_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "page.html"
    assert cli.main(["report", str(small_run.path), "--out", str(out), "--queries", "2", "--json", "--quiet"]) == 0
    printed, errors = capsys.readouterr()
    assert errors == ""
    found = json.loads(printed)
    assert found["report"] == str(out)
    assert found["retrieval"]["map_at_all"] > 0.5
    assert len(Page(out).all("figure", "tile query")) == 4
    assert cli.main(["report", str(small_run.path), "--out", str(out), "--queries", "1"]) == 0
    told = capsys.readouterr().out
    assert f"{found['retrieval']['map_at_all']:.4f}" in told
    assert str(out) in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "is not a run folder"),
        (["{run}", "--queries", "0"], "queries must be"),
        (["{run}", "--out", "{tmp}/no/such/page.html"], "the folder .* does not exist"),
    ],
)
def test_mistakes_are_told_in_a_line(
    small_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    filled = [argument.format(run=small_run.path, tmp=tmp_path) for argument in arguments]
    assert cli.main(["report", *filled]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert re.search(message, told.err)


@pytest.mark.parametrize(("module", "package"), [("jinja2", "jinja2"), ("sklearn.manifold", "scikit-learn")])
def test_missing_packages(small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f'pip install "{package}>='):
        write_report(small_run, tmp_path / "report.html", queries=1)
    assert not list(tmp_path.iterdir())
