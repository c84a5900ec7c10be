"""The plots show what is published, and do not change from run to run."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from mnv2vision.errors import ConfigError
from mnv2vision.paper import plots

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def shown(figure: Figure) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for axes in figure.axes for dots in axes.collections for x, y in dots.get_offsets()]


@pytest.mark.parametrize(
    ("text", "value"), [("3.47M", 3_470_000), ("0.35B", 350_000_000), ("1600K", 1_600_000), ("72.0", 72)]
)
def test_numbers(text: str, value: float) -> None:
    assert plots.number(text) == pytest.approx(value, rel=1e-12)


def test_figure5() -> None:
    """The ends of the published tables: TF-slim's V1 and V2, V3, and PaddleClas's at the multiply-adds it publishes."""
    dots = shown(plots.PLOTS["figure5"]())
    assert len(dots) == 16 + 22 + 4 + 6
    v1, v2, v3 = (
        ((569e6, 70.9), (14e6, 41.5)),
        ((582e6, 75.0), (300e6, 71.8), (11e6, 45.5)),
        ((217e6, 75.2), (44e6, 65.4)),
    )
    assert {*v1, *v2, *v3} <= set(dots)
    # PaddleClas's table has 2.32 GFLOPs, two operations a multiply-add, for the largest.
    (largest,) = (madds for madds, top1 in dots if top1 == 75.23)
    assert largest * 2 / 1e9 == pytest.approx(2.32, rel=0.03)


def test_table6() -> None:
    dots = shown(plots.PLOTS["table6"]())
    assert len(dots) == 12
    for published in ((35.2e9, 23.2), (99.5e9, 26.8), (17.5e9, 21.6), (1.3e9, 22.2), (0.8e9, 22.1), (0.583e9, 21.3)):
        assert any(x == pytest.approx(published[0]) and y == published[1] for x, y in dots), published


def test_parameters() -> None:
    dots = shown(plots.PLOTS["parameters"]())
    for published in ((4.24e6, 70.9), (3.47e6, 71.8), (5.4e6, 75.2), (11.33e6, 75.23), (5.83e6, 77.28), (6.9e6, 74.7)):
        assert any(x == pytest.approx(published[0]) and y == published[1] for x, y in dots), published


def test_table3_and_its_files(tmp_path: Path) -> None:
    figure = plots.PLOTS["table3"]()
    v1, v2, _ = ([bar.get_height() for bar in axes.patches] for axes in figure.axes)
    assert v1[:6] == [1600, 800, 400, 200, 199, 2]  # as published, then as counted
    assert v2[:6] == [400, 200, 100, 62, 32, 2]
    assert v1[6] == 64 * 112**2 * 2 / 1000
    assert v2[6] == 16 * 112**2 * 2 / 1000
    assert figure.axes[0].get_ylim()[0] == 0  # bars from nothing on

    first = {path.name: path.read_bytes() for path in plots.write(figure, tmp_path / "table3")}
    again = {path.name: path.read_bytes() for path in plots.draw("table3", tmp_path)}
    assert sorted(first) == ["table3.png", "table3.svg"]
    assert again == first
    assert b"<dc:date>" not in first["table3.svg"]


def test_unknown_plot(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="plot 'figure7' is unknown; valid: figure5, parameters, table6, table3"):
        plots.draw("figure7", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["figure1", *plots.PLOTS])
def test_pictures_of_the_documentation(name: str) -> None:
    path = ROOT / f"docs/figures/{name}.png"
    assert path.stat().st_size < 120_000
    assert path.with_suffix(".svg").is_file()
    with Image.open(path) as picture:
        picture.verify()
