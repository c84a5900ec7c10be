"""Classes have the same colour wherever they occur, and no two of a model the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnv2vision.common.colors import VOC_NAMES, class_colors, read_colors
from mnv2vision.errors import ConfigError

# Of VOC's development kit, VOClabelcolormap: classes 1, 7, 12, 15 and 20.
OF_VOC = {
    "aeroplane": [128, 0, 0],
    "car": [128, 128, 128],
    "dog": [64, 0, 128],
    "person": [192, 128, 128],
    "tvmonitor": [0, 64, 128],
}


def color(name: str, names: tuple[str, ...]) -> list[int]:
    found: list[int] = class_colors(names)[names.index(name)].tolist()
    return found


def test_voc_has_its_own() -> None:
    for names in (("background", *VOC_NAMES), VOC_NAMES, ("dog", "traffic light", "person", "car", *OF_VOC)):
        for name, wanted in OF_VOC.items():
            assert color(name, names) == wanted


def test_the_same_in_every_model() -> None:
    first = color("raccoon", ("raccoon",))
    assert first == color("raccoon", ("background", "person", "raccoon")) == color("raccoon", ("zebra", "raccoon"))
    names = tuple(f"class {label}" for label in range(40))
    assert {name: color(name, names) for name in names} == {name: color(name, names[::-1]) for name in names}


def test_it_does_not_depend_on_the_process() -> None:
    """Values of today, which pictures of tomorrow keep."""
    assert [color(name, (name,)) for name in ("raccoon", "traffic light")] == [[0, 184, 7], [140, 255, 207]]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.one_of(st.text(), st.sampled_from(VOC_NAMES)), min_size=1, max_size=400, unique=True))
def test_no_two_are_alike(names: list[str]) -> None:
    colors = class_colors(names)[: len(names)]
    assert len({tuple(rgb) for rgb in colors.tolist()}) == len(names)
    shown = colors if names[0].strip("_ ").lower() != "background" else colors[1:]
    assert shown.any(axis=1).all()  # none is black, which is the background's


def test_given_colors() -> None:
    names = ("background", "cat", "dog", "hat")
    free = class_colors(names)
    chosen = read_colors(["hat:#0f0", " dog : Red "], names)
    assert chosen == {"hat": (0, 255, 0), "dog": (255, 0, 0)}
    colors = class_colors(names, chosen)
    assert colors[:4].tolist() == [[0, 0, 0], free[1].tolist(), [255, 0, 0], [0, 255, 0]]
    # A class whose own colour was given to another takes another.
    taken = class_colors(names, {"hat": tuple(free[1].tolist())})  # type: ignore[dict-item]
    assert (taken[3] == free[1]).all()
    assert (taken[1] != free[1]).any()
    np.testing.assert_array_equal(class_colors(names), free)
    assert read_colors(["a:b:blue"], ["a:b"]) == {"a:b": (0, 0, 255)}


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        (["dgo:red"], "colors=dgo:red: the model has no class 'dgo' that is drawn; did you mean dog?"),
        (["x:red"], "colors=x:red: the model has no class 'x' that is drawn; valid: cat, dog"),
        (["dog:rde"], "colors=dog:rde: is not <class>:<colour>, such as person:#ff0000 or car:red"),
        (["dog:#ff0000ff"], "colors=dog:#ff0000ff: is not <class>:<colour>, such as person:#ff0000 or car:red"),
        (["dog"], "colors=dog: is not <class>:<colour>, such as person:#ff0000 or car:red"),
        (["red"], "colors=red: is not <class>:<colour>, such as person:#ff0000 or car:red"),
        (["dog:"], "colors=dog:: is not <class>:<colour>, such as person:#ff0000 or car:red"),
        (["dog:red", "dog:blue"], "colors: dog is given twice"),
    ],
)
def test_what_is_wrong_is_said(entries: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_colors(entries, ["cat", "dog"])
    assert str(error.value) == told
