"""Charts as geometry: scales, ticks, tables, heat maps."""

import base64
import io

import numpy as np
import pytest

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
    assert Scale(2, 2, 10, 20)(2) == 10  # one epoch alone


def test_lines_tables_and_tips_say_the_same() -> None:
    chart = _charts.lines(
        "Title", "About.", [1, 2, 3], [Series("a", [0.5, None, 0.25]), Series("b", [0.1, 0.2, 0.3])],
        x_label="x", y_label="y", x_name="epoch", whole=True,
    )  # fmt: skip
    assert chart.table == Table(("epoch", "a", "b"), (("1", "50 %", "10 %"), ("2", "-", "20 %"), ("3", "25 %", "30 %")))
    assert [band.tip for band in chart.bands] == ["epoch 1\na: 50 %\nb: 10 %", "epoch 2\nb: 20 %", "epoch 3\na: 25 %\nb: 30 %"]
    assert chart.bands[0].x == chart.left
    assert sum(band.width for band in chart.bands) == pytest.approx(chart.right - chart.left)
    assert len(chart.lines[0].points) == 2  # the missing value is no point
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
    assert "different classes" not in chart.about  # there is no such mean


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
    assert chart.dots[0].centre[1] > chart.dots[1].centre[1]  # up is up
