"""Tests of the geometry of charts: scales, ticks, tables, heat maps."""

import base64
import io

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")

from PIL import Image

from orthohash_triton.report import _charts, _page
from orthohash_triton.report._charts import Scale, Series, Table


@pytest.mark.parametrize(("least", "step"), [(0.3, 0.5), (0.2, 0.2), (1.01, 2), (7, 10), (0, 1), (1e-9, 1e-9)])
def test_nice_steps(least: float, step: float) -> None:
    assert _charts.nice_step(least) == pytest.approx(step)


def test_scales_have_their_ends_where_they_should() -> None:
    scale = Scale(0, 1, 50, 386)
    assert (scale(0), scale(1)) == (50, 386)
    assert [(tick.at, tick.text) for tick in scale.ticks(2)] == [(50, "0"), (218, "0.5"), (386, "1")]
    decades = Scale(1, 1000, 0, 300, log=True)
    assert [(tick.at, tick.text) for tick in decades.ticks()] == [(0, "1"), (100, "10"), (200, "100"), (300, "1000")]
    assert Scale(2, 2, 10, 20)(2) == 10  # a single epoch


def test_lines_tables_and_tips_say_the_same() -> None:
    chart = _charts.lines(
        "Title", "About.", [1, 2, 3], [Series("a", [0.5, None, 0.25]), Series("b", [0.1, 0.2, 0.3])],
        x_label="x", y_label="y", x_name="epoch", whole=True,
    )  # fmt: skip
    assert chart.table == Table(("epoch", "a", "b"), (("1", "50 %", "10 %"), ("2", "-", "20 %"), ("3", "25 %", "30 %")))
    assert [band.tip for band in chart.bands] == ["epoch 1\na: 50 %\nb: 10 %", "epoch 2\nb: 20 %", "epoch 3\na: 25 %\nb: 30 %"]
    assert chart.bands[0].x == chart.left
    assert sum(band.width for band in chart.bands) == pytest.approx(chart.right - chart.left)
    assert len(chart.lines[0].points) == 2  # the missing value has no point
    assert [tick.text for tick in chart.x_ticks] == ["1", "2", "3"]


def test_a_single_epoch_is_a_point() -> None:
    loss, *_ = _page.training_charts([{"epoch": 1, "loss": 2.5, "validation_map": None, "bit_accuracy": None}])
    assert len(loss.lines[0].points) == len(loss.bands) == 1
    assert loss.table.rows == (("1", "2.5000"),)


def test_many_distances_are_drawn_in_groups_that_lose_nothing() -> None:
    shares = np.random.default_rng(0).dirichlet(np.ones(1025)).tolist()
    retrieval = {"curves": {"intra": shares, "inter": shares[::-1]}, "intra_mean": 1.0, "inter_mean": None}
    chart = _page._distances_chart(retrieval)
    assert 64 < len(chart.bands) <= 129
    total = sum(float(row[1].removesuffix(" %")) for row in chart.table.rows)
    assert total == pytest.approx(100, abs=0.5)
    assert "different classes" not in chart.about  # there are no pairs of different classes


def heat(values: np.ndarray) -> np.ndarray:
    chart = _charts.heat_map("t", "a", values.tolist(), Table((), ()), label="bit")
    content = base64.b64decode(chart.map.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"), np.int64)


def test_a_heat_map_shows_sign_by_hue_and_magnitude_by_opacity() -> None:
    image = heat(np.array([[1.0, -1.0], [0.0, 0.5]]))
    assert image[0, 0, 2] > image[0, 0, 0]  # positive is blue
    assert image[0, 1, 0] > image[0, 1, 2]  # negative is orange
    assert image[..., 3].tolist() == [[255, 255], [0, 128]]


def test_a_large_heat_map_keeps_what_stands_out() -> None:
    values = np.zeros((1100, 1100))
    values[1099, 5] = -1
    image = heat(values)
    assert image.shape == (367, 367, 4)
    assert image[366, 1].tolist()[3] == 255
    assert (image[..., 3] > 0).sum() == 1


def test_a_cloud_is_named_where_it_is() -> None:
    places = np.array([[0, 0], [0, 1], [10, 10], [11, 10], [10, 11]], float)
    groups = [("a", 0, np.array([0, 1])), ("b", 1, np.array([2, 3, 4]))]
    chart = _charts.scatter("t", "a", places, groups, Table((), ()), named=True)
    for cloud in chart.dots:
        assert any(cloud.centre == (x, y) for x, y, _ in cloud.points)
    assert [row for cloud in chart.dots for *_, row in cloud.points] == [0, 1, 2, 3, 4]
    assert all(0 <= x <= chart.width and 0 <= y <= chart.height for cloud in chart.dots for x, y, _ in cloud.points)
    assert chart.dots[0].centre[1] > chart.dots[1].centre[1]  # larger values are higher


def test_values_outside_of_the_axis_are_drawn_at_its_end() -> None:
    chart = _charts.lines(
        "t", "a", [1, 2, 3], [Series("a", [1.5, 0.5, -1.0])], x_label="x", y_label="y", x_name="x", y_range=(0, 1)
    )  # fmt: skip
    assert [y for _, y in chart.lines[0].points] == [chart.top, (chart.top + chart.bottom) / 2, chart.bottom]


@pytest.mark.parametrize(("values", "ends"), [([1.0, -0.3], (-0.5, 1.0)), ([0.2, 0.7], (0.0, 0.8)), ([], (0.0, 1.0))])
def test_an_axis_contains_zero_and_all_values(values: list[float], ends: tuple[float, float]) -> None:
    assert _charts._range(values) == pytest.approx(ends)


def test_of_many_classes_those_of_lowest_map_are_drawn_and_all_are_listed() -> None:
    classes = [{"class": f"c{i}", "queries": 3, "map": 1 - i / 40} for i in range(20)]  # the best first
    chart = _page._classes_chart(classes)
    assert chart.title == "The 16 classes of lowest mAP, of 20"
    assert [name.text for name in chart.names] == [f"c{i}" for i in range(4, 20)]
    assert [row[0] for row in chart.table.rows] == [f"c{i}" for i in range(20)]
    assert _page._classes_chart(classes[:5]).title == "Classes"


def test_precision_is_not_drawn_where_nothing_is_found() -> None:
    curves = {"recall": [0.0, 0.25, 1.0], "precision": [0.0, 0.75, 0.125], "precision_at_n": {"1": 0.5, "10": 0.25}}
    recall, ranks = _page.retrieval_charts({"curves": curves, "chance": 0.1, "classes": []})
    assert recall.table.rows == (("0.250", "75 %"), ("1.000", "12.5 %"))
    assert ranks.table.rows == (("1", "50 %"), ("10", "25 %"))


def test_images_of_the_sprite_are_in_rows() -> None:
    from orthohash_triton.report import _wall
    from orthohash_triton.runs.samples import Pictures

    class Greys(Pictures):
        def __bool__(self) -> bool:
            return True

        def image(self, position: int) -> Image.Image | None:
            return None if position == 1 else Image.new("L", (8, 8), 50 * position)

    found = _wall.sprite(Greys(), [4, 3, 1, 2, 5])
    assert found is not None
    assert (found.columns, found.side) == (3, 32)
    sheet = Image.open(io.BytesIO(base64.b64decode(found.picture.partition(",")[2])))
    shades = [sheet.getpixel((32 * column + 16, 32 * row + 16)) for row in range(2) for column in range(3)]
    assert shades == pytest.approx([200, 150, 0, 100, 250, 0], abs=3)  # the file is a JPEG


def test_images_that_are_missing_are_counted() -> None:
    from orthohash_triton.report import _missing_pictures
    from orthohash_triton.report._wall import Row, Tile
    from orthohash_triton.runs.samples import PictureFiles, RunSamples, Samples

    side = Samples(torch.zeros(2, 1, dtype=torch.uint8), torch.zeros(2).long(), ("a", "b"), PictureFiles(("x.png", "y.png")))
    samples = RunSamples(gallery=side, query=None, notes=())
    rows = [Row(Tile("data:", "a", "query"), (Tile("", "a", "right", 1), Tile("data:", "b", "wrong", 2)), 1)]
    (note,) = _missing_pictures(samples, [("title", "about", rows)])
    assert note.startswith("1 of the 3 images on this page could not be read")
