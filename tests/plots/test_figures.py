import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from PIL import Image

from orthohash_triton.plots import figures, profiles

METHODS = ["OrthoHash", "CSQ", "LSH"]
LENGTHS = [12, 16]


def profile(title: str, bits: int, seed: int = 0, **changes) -> dict:
    generator = np.random.default_rng(seed)
    labels = np.arange(24) % 3
    classes = generator.integers(0, 2, (3, bits), dtype=np.uint8)
    return {
        "title": title,
        "bits": bits,
        "recall": np.linspace(0, 1, bits + 1).tolist(),
        "precision": np.linspace(1, 0.1, bits + 1).tolist(),
        "precision_at_n": {"10": 0.5, "1": 0.9, "2": 0.7},
        "intra": [1.0] + [0.0] * bits,
        "inter": np.full(bits + 1, 1 / (bits + 1)).tolist(),
        "bit_mean": generator.random(bits).tolist(),
        "bit_correlation": np.corrcoef(generator.random((bits, 50))).tolist(),
        "codes": np.packbits(classes[labels], axis=1, bitorder="little"),
        "labels": labels.tolist(),
    } | changes


PROFILES = [profile(title, bits, i) for bits in LENGTHS for i, title in enumerate(METHODS)]
ROWS = [
    {"title": title, "bits": bits, "seed": seed, "map_at_all": 0.5 + 0.1 * seed, "precision_at_radius_2": 0.2 * i}
    for bits in LENGTHS
    for i, title in enumerate(METHODS)
    for seed in (0, 1)
]


def test_every_picture_is_written(tmp_path: Path) -> None:
    names = figures.draw_comparison(tmp_path, ROWS, PROFILES, "toy data", ("a", "b", "c"))
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    assert set(names) == {
        "map_by_bits.png", "precision_radius_2.png", "precision_recall.png", "precision_at_n.png", "codes_12_bits.png",
        "distances_12_bits.png", "distances_16_bits.png", "bits_12_bits.png", "bits_16_bits.png",
    }  # fmt: skip
    for path in tmp_path.iterdir():
        assert path.stat().st_size < 300_000
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
        assert (pixels[:, -1] > 250).all()  # nothing is drawn beyond the right border
        assert (pixels < 128).any()


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one row and one profile; got 0 and 6"):
        figures.draw_comparison(tmp_path, [], PROFILES, "toy")
    with pytest.raises(ValueError, match="got 12 and 0"):
        figures.draw_comparison(tmp_path, ROWS, [], "toy")
    assert list(tmp_path.iterdir()) == []


def test_by_bits_shows_mean_and_sample_deviation_over_seeds() -> None:
    values = {("A", 16): [0.2, 0.4, 0.6], ("A", 32): [0.5], ("B", 32): [0.7, 0.9]}
    rows = [
        {"title": title, "bits": bits, "seed": seed, "x": value}
        for (title, bits), found in values.items()
        for seed, value in enumerate(found)
    ]
    axes = figures.draw_by_bits(rows, ["A", "B"], "x", "the figure").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["A", "B"]
    assert axes.get_ylim() == (1.5, -0.5)  # the first method is at the top
    assert axes.get_xlabel() == "the figure (mean ± deviation over 3 seeds)"
    drawn = {}
    for container in axes.containers:
        line, _, (bars,) = container.lines
        for x, y, bar in zip(line.get_xdata(), line.get_ydata(), bars.get_segments(), strict=True):
            drawn["AB"[round(y)], container.get_label()] = (x, bar[1][0] - bar[0][0])
    assert drawn == {
        ("A", "16 bits"): pytest.approx((0.4, 2 * 0.2)),
        ("A", "32 bits"): pytest.approx((0.5, 0)),
        ("B", "32 bits"): pytest.approx((0.8, 2 * np.std([0.7, 0.9], ddof=1))),
    }


def test_lengths_are_light_to_dark() -> None:
    """A single length has a dark colour, which is easier to see on white."""
    light, *_, darkest = figures.LENGTH_COLOURS
    assert figures._spread_out(figures.LENGTH_COLOURS, 2) == list(figures.LENGTH_COLOURS[:2])
    assert figures._spread_out(figures.LENGTH_COLOURS, 6) == [*figures.LENGTH_COLOURS, darkest, darkest]
    (alone,) = figures._spread_out(figures.LENGTH_COLOURS, 1)
    assert sum(bytes.fromhex(alone[1:])) < sum(bytes.fromhex(light[1:])) / 2


def test_curves() -> None:
    curve = {"recall": [0, 0.25, float("nan"), 1], "precision": [0, 0.8, 0.5, 0.1]}
    drawn = [profile("A", 16, **curve), profile("B", 16), profile("B", 32)]
    figure = figures.draw_curves(drawn, ["A", "B"], figures._precision_recall, "recall", "precision")
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("16 bits", "32 bits")
    lines = {line.get_label(): line for line in first.lines}
    assert lines["A"].get_xydata().tolist() == [[0.25, 0.8], [1, 0.1]]  # radii without results are left out, without a gap
    assert [line.get_label() for line in second.lines] == ["B"]
    assert second.lines[0].get_color() == lines["B"].get_color() != lines["A"].get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["A", "B"]


def test_ranks_stand_in_their_order() -> None:
    ranks, precision = figures._precision_at_n(profile("A", 16))
    assert ranks.tolist() == [1, 2, 10]
    assert precision.tolist() == [0.9, 0.7, 0.5]


def test_no_two_methods_look_alike() -> None:
    styles = [figures._style(index) for index in range(21)]
    assert len({(style["color"], str(style["linestyle"])) for style in styles}) == 21


def test_lengths_without_panels_are_left_blank() -> None:
    drawn = [profile("A", bits) for bits in (8, 16, 24, 32)]
    figure = figures.draw_curves(drawn, ["A"], figures._precision_recall, "recall", "precision")
    assert [axes.get_visible() for axes in figure.axes] == [True] * 4 + [False] * 2


def test_bits_and_distances() -> None:
    constant = profile("A", 2, bit_mean=[1.0, 0.25], bit_correlation=[[1, -0.5], [-0.5, 1]])
    axes = figures.draw_bits([constant]).axes[0]
    assert axes.get_xlabel() == "mean |r| 0.50"
    assert axes.images[0].get_array().tolist() == [[1, -0.5], [-0.5, 1]]
    assert [bar.get_height() for bar in axes.child_axes[0].patches] == [1.0, 0.25]
    alone = profile("A", 1, bit_mean=[0.5], bit_correlation=[[1]])
    assert figures.draw_bits([alone]).axes[0].get_xlabel() == "mean |r| 0.00"  # there is no pair of bits
    same, other = figures.draw_distances([profile("A", 4)]).axes[0].lines
    assert same.get_ydata().tolist() == [1, 0, 0, 0, 0]
    assert other.get_ydata().tolist() == [0.2] * 5


def test_codes_are_coloured_by_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "most_common_classes", lambda ids: profiles.most_common_classes(ids, 2))
    labels = [4] * 12 + [0] * 9 + [7] * 3
    figure = figures.draw_codes([profile("A", 16, labels=labels)], tuple("abcdefgh"))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "e", "1 other classes"]
    clouds = [cloud for cloud in figure.axes[0].collections if isinstance(cloud, PathCollection)]
    assert [(len(cloud.get_offsets()), to_hex(cloud.get_facecolor()[0])) for cloud in clouds] == [
        (3, "#c4c4c4"), (9, figures.COLOURS[0].lower()), (12, figures.COLOURS[1].lower()),
    ]  # fmt: skip


def test_a_large_picture_gets_few_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = figures.draw_distances(PROFILES[:3])
    figures._save(tmp_path / "full.png", figure, "toy")
    monkeypatch.setattr(figures, "MAX_BYTES", 0)
    figures._save(tmp_path / "few.png", figure, "toy")
    full, few = Image.open(tmp_path / "full.png"), Image.open(tmp_path / "few.png")
    assert few.mode == "P"
    assert (tmp_path / "few.png").stat().st_size < (tmp_path / "full.png").stat().st_size
    difference = np.abs(np.asarray(full.convert("RGB"), int) - np.asarray(few.convert("RGB"), int))
    assert difference.mean() < 3


@pytest.mark.parametrize(("module", "message"), [("matplotlib.figure", r"\[report\]"), ("sklearn.manifold", r"\[report\]")])
def test_missing_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, message: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=message):
        figures.draw_comparison(tmp_path, ROWS, PROFILES, "toy")
