"""Gathering results of several processes."""

from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def gather(value: T) -> list[T]:
    """The values of all processes, ordered by rank; only this one in a single process."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
