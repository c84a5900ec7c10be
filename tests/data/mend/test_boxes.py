"""Mending the boxes of one image, by hand."""

import numpy as np
import pytest

from mnv2vision.data.mend.boxes import CLIPPED, mend

NAN = float("nan")


def mended(*boxes: tuple[float, float, float, float], classes: str = "", merge: bool = True) -> list[str]:
    sizes = np.tile([50.0, 100.0], (len(boxes), 1))
    names = [None if name == "-" else name for name in classes or "a" * len(boxes)]
    return mend(np.array(boxes, np.float64).reshape(-1, 4), sizes, names, merge=merge).kinds


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ((10, 10, 40, 40), ""),
        ((10, 10, 101, 40), ""),  # a pixel is put down to rounding
        ((10, 10, 102, 40), CLIPPED),
        ((-2, 10, 40, 40), CLIPPED),
        ((10, 10, 10, 40), "box without area"),
        ((40, 10, 10, 40), "box without area"),
        ((101, 10, 140, 40), "box outside the image"),
        ((10, NAN, 40, 40), "box not finite"),
    ],
)
def test_kinds(box: tuple[float, float, float, float], kind: str) -> None:
    assert mended(box) == [kind]
    assert mended((60, 10, 90, 40), box) == ["", kind]


def test_clipped() -> None:
    boxes = np.array([[-5, 10, 120, 60], [10, 10, 101, 40]], np.float64)
    found = mend(boxes, np.tile([50.0, 100.0], (2, 1)), ["a", "b"], merge=True)
    assert found.boxes.tolist() == [[0, 10, 100, 50], [10, 10, 101, 40]]


def test_copies() -> None:
    one, alike, chained = (10, 10, 40, 40), (10, 10, 41, 40), (10, 10, 45, 40)  # IoU 30/31, 30/35, and 31/35
    assert mended(one, alike, chained) == ["", "box copied", ""]
    assert mended(one, alike, one) == ["", "box copied", "box copied"]
    assert mended(one, alike, classes="ab") == ["", ""]
    assert mended(one, alike, classes="a-") == ["", ""]
    assert mended(one, alike, merge=False) == ["", ""]
    # As they are after clipping.
    assert mended((50, 10, 100, 40), (50, 10, 200, 40)) == ["", "box copied"]


def test_none() -> None:
    assert mended() == []
