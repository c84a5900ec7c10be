"""`loss.class_weights=auto`: median frequencies, by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mnv2vision.contracts import HeadSettings
from mnv2vision.data.sample import Sample
from mnv2vision.engine.class_weights import with_class_weights
from mnv2vision.errors import DataError

NAMES = {"segmentation": ("background", "ant", "bee", "wasp")}
AUTO = {"segmentation": HeadSettings(loss={"class_weights": "auto", "hardest": 0.5})}


class Masks:
    """Masks of 100 pixels: of 50 and 50, of 90 and 10, and one that is not counted; a photo without; a broken file."""

    names, targets = NAMES["segmentation"], frozenset({"mask"})
    labels: tuple[list[int] | None, ...] = ([0] * 50 + [1] * 50, [0] * 90 + [2] * 10, [255] * 100, None)

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def __len__(self) -> int:
        return len(self.labels) + self.broken

    def __getitem__(self, index: int) -> Sample:
        if index == len(self.labels):
            raise DataError("e.png: truncated")
        own = self.labels[index]
        mask = None if own is None else np.array(own, np.uint8).reshape(10, 10)
        return Sample(np.zeros((10, 10, 3), np.uint8), index, str(index), mask=mask)


@pytest.mark.parametrize(("broken", "on_error"), [(False, "raise"), (True, "skip")])
def test_by_hand(broken: bool, on_error: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mnv2vision.engine.class_weights")
    source: Any = Masks(broken)
    found = with_class_weights(AUTO, source, NAMES, on_error)["segmentation"].loss
    # Frequencies: 140 of 200, 50 of 100, 10 of 100; their median is 0.5.
    assert found["class_weights"] == pytest.approx((0.5 / 0.7, 1.0, 5.0, 1.0))
    assert found["hardest"] == 0.5


def test_what_cannot_be_counted() -> None:
    source: Any = Masks(broken=True)
    with pytest.raises(DataError, match=r"e\.png: truncated"):
        with_class_weights(AUTO, source, NAMES, "raise")
    source.labels = (None, [255] * 100)
    with pytest.raises(DataError, match="the masks have no pixel that counts"):
        with_class_weights(AUTO, source, NAMES, "skip")


def test_numbers_stay_as_they_are() -> None:
    given = {"segmentation": HeadSettings(loss={"class_weights": (1.0, 2.0, 3.0, 4.0)}), "boxes": HeadSettings()}
    assert with_class_weights(given, Masks(), NAMES, "raise") == given  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_run(train: Callable[..., int], tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    own = ("task=segmentation", "loss.class_weights=auto", "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}")
    assert train(*own) == 0
    told = capsys.readouterr().err
    assert "loss.class_weights by 58 of 58 masks: background 0." in told
    assert train("task=segmentation", "loss.class_weights=automatic", f"run_dir={tmp_path / 'other'}") == 2
    assert "loss.class_weights takes" in capsys.readouterr().err
