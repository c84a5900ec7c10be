"""Gathering over processes keeps every value."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from mnv2vision.common.distributed import gather


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("value", [None, 0, "text", {"a": 1}])
@pytest.mark.usefixtures("group")
def test_values_of_a_group(value: object) -> None:
    assert gather(value) == [value]


def test_a_single_process() -> None:
    assert gather(None) == [None]
