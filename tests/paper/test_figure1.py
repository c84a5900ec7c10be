"""Figure 1: more dimensions keep more of the spiral through ReLU."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnv2vision.paper import figure1


def test_without_relu_nothing_is_lost() -> None:
    """The pseudo-inverse undoes the embedding, so what is lost is ReLU's doing."""
    points = figure1.spiral()
    shifted = points + 100  # not all matrices leave these positive: choose one that does
    seed = next(s for s in range(50) if (np.random.default_rng(s).standard_normal((3, 2)) @ [1, 1] > 0.1).all())
    returned, passed = figure1.embed_and_return(shifted, 3, seed)
    assert passed.all()
    np.testing.assert_allclose(returned, shifted, rtol=1e-10)
    assert figure1.relative_error(points, -3 * points) < 1e-12
    assert figure1.relative_error(points, points[:, ::-1] * [1, -1]) > 0.99  # a right angle


def test_error_falls_with_the_dimension() -> None:
    found = [figure1.loss(dimension) for dimension in figure1.DIMENSIONS]
    means = [loss.error.mean() for loss in found]
    assert means == sorted(means, reverse=True)
    assert means[0] > 2 * means[-1]
    lost = [loss.lost.mean() for loss in found]
    assert lost == sorted(lost, reverse=True)
    assert all(np.ptp(loss.error) > 0 for loss in found)  # the seeds differ


def test_two_dimensions_lose_part_of_the_spiral() -> None:
    """Where both values are negative, all points become one; where one is, a turn falls on a line."""
    points = figure1.spiral()
    for seed in range(5):
        returned, passed = figure1.embed_and_return(points, 2, seed)
        nothing = ~passed.any(1)
        assert nothing.any()
        assert not returned[nothing].any()
        one = passed.sum(1) == 1
        angles = np.arctan2(*returned[one].T[::-1])
        assert len(np.unique(angles.round(6))) <= 2
    # Each value is positive for half of all directions; two independent ones are for a quarter.
    loss = figure1.loss(2, seeds=400)
    assert 0.70 < loss.lost.mean() < 0.80
    assert (figure1.loss(30).lost == 0).all()


@pytest.mark.slow
def test_drawing(tmp_path: Path) -> None:
    lines = figure1.draw(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figure1.png", "figure1.svg"]
    found = [re.match(r"n = +(\d+): error (0\.\d\d) ± (0\.\d\d), not invertible on (\d+)% ± \d+%", x) for x in lines]
    assert [int(match[1]) for match in found if match] == [2, 3, 5, 15, 30]
    first = (tmp_path / "figure1.svg").read_bytes()
    figure1.draw(tmp_path)
    assert (tmp_path / "figure1.svg").read_bytes() == first
    with Image.open(tmp_path / "figure1.png") as picture:
        assert picture.width > 800
