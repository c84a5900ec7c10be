"""Classes of data sets among those of models."""

import pytest

from mnv2vision.contracts import HeadConfig, find_classes
from mnv2vision.errors import ConfigError


def labels(model_names: tuple[str, ...], names: tuple[str, ...]) -> list[int] | None:
    found = find_classes(names, HeadConfig("classification", len(model_names), model_names))
    return None if found is None else list(found)


def test_by_name() -> None:
    assert labels(("ant", "bee"), ("ant", "bee")) is None
    assert labels(("ant", "bee", "cat"), ("cat", "ant")) == [2, 0]


def test_a_name_that_two_classes_of_the_model_have() -> None:
    """ImageNet has two classes named crane: a bird and a machine."""
    model = ("crane", "ant", "crane")
    assert labels(model, model) is None
    assert labels(model, ("ant",)) == [1]
    with pytest.raises(ConfigError, match=r"the model has 2 classes named crane \(0 and 2\): which is meant"):
        labels(model, ("ant", "crane"))


def test_an_unknown_class() -> None:
    with pytest.raises(
        ConfigError, match=r"do not include 1 of the data set's 2: wasp; .* or restrict dataset\.classes"
    ):
        labels(("ant", "bee"), ("ant", "wasp"))
    with pytest.raises(
        ConfigError, match=r"do not include 1 of the data set's 1: wasp; train for them with init_from=<"
    ):
        labels(("ant", "bee"), ("wasp",))
