"""Which samples each batch has: the order of an epoch, a process's share of it, and where to go on after a resume."""

from collections.abc import Iterator
from typing import NamedTuple, Required, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from mnv2vision.data.mixture import Mixture, counts_per_batch
from mnv2vision.data.sample import SampleSource
from mnv2vision.errors import DataError


class Plan(TypedDict, total=False):
    """See `BatchSampler`."""

    training: Required[bool]
    seed: int
    rank: int
    world_size: int


class BatchKey(NamedTuple):
    """What the sampler passes to a worker: enough to produce the same batch in any process."""

    epoch: int
    indices: list[int]
    passes: list[int] | None = None
    """How often each sample's data set was gone through before; the epoch by default."""


class BatchSampler(Sampler[BatchKey]):
    """The order of an epoch, this process's share of it, and where to continue after a resume."""

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        training: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Plan the batches.

        Args:
            length: Samples in the data set.
            batch_size: Per process.
            training: Shuffle, and give every process the same number of full batches (a data set smaller than one
                batch is repeated to fill it). Otherwise in order, every sample once, with a smaller last batch.
            seed: Seed of the order.
            rank: Rank of this process.
            world_size: Number of processes.
        """
        if length == 0:
            raise DataError("the data set is empty")
        self.length = length
        self.batch_size = batch_size
        self.training = training
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.first_batch = 0

    def __len__(self) -> int:
        if self.training:
            return max(1, self.length // (self.batch_size * self.world_size))
        share = len(range(self.rank, self.length, self.world_size))
        return -(-share // self.batch_size)

    def __iter__(self) -> Iterator[BatchKey]:
        order = np.arange(self.length)
        if self.training:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
            order = np.resize(order, len(self) * self.batch_size * self.world_size)
        share = order[self.rank :: self.world_size]
        for batch in range(self.first_batch, len(self)):
            indices = share[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield BatchKey(self.epoch, indices.tolist())

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch; a resumed epoch keeps its first batch."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.first_batch = 0

    def go_on_at(self, epoch: int, batch: int) -> None:
        """Resume after `batch` batches of `epoch`."""
        done = batch >= len(self)
        self.epoch = epoch + done
        self.first_batch = 0 if done else batch


class MixtureSampler(BatchSampler):
    """Batches of a mixture: in training each with the same number of images of each part, else of one part each.

    In training each part goes round its own shuffled samples, without regard to where an epoch ends; an epoch has as
    many batches as the parts have images together. What a batch has is a function of the seed and its number.
    """

    def __init__(self, mixture: Mixture, batch_size: int, **plan: Unpack[Plan]) -> None:
        """Plan the batches; see `BatchSampler`."""
        super().__init__(len(mixture), batch_size, **plan)
        self._mixture = mixture
        self._counts = counts_per_batch(mixture.shares, batch_size, mixture.names) if self.training else []

    def __len__(self) -> int:
        return super().__len__() if self.training else len(list(self._in_order()))

    def __iter__(self) -> Iterator[BatchKey]:
        if not self.training:
            yield from list(self._in_order())[self.first_batch :]
            return
        orders: dict[tuple[int, int], NDArray[np.int64]] = {}  # of those passes that a batch is of
        for batch in range(self.first_batch, len(self)):
            indices, passes = [], []
            for part, count in enumerate(self._counts):
                own = self._mixture.indices(part)
                start = ((self.epoch * len(self) + batch) * self.world_size + self.rank) * count
                for place in range(start, start + count):
                    round_, at = divmod(place, len(own))
                    if (part, round_) not in orders:
                        orders = {key: order for key, order in orders.items() if key[0] != part or key[1] == round_ - 1}
                        orders[part, round_] = np.random.default_rng((self.seed, part, round_)).permutation(len(own))
                    indices.append(own.start + int(orders[part, round_][at]))
                    passes.append(round_)
            yield BatchKey(self.epoch, indices, passes)

    def _in_order(self) -> Iterator[BatchKey]:
        for part in range(len(self._mixture.sources)):
            own = self._mixture.indices(part)
            share = range(own.start + (self.rank - own.start) % self.world_size, own.stop, self.world_size)
            for start in range(0, len(share), self.batch_size):
                yield BatchKey(self.epoch, list(share[start : start + self.batch_size]))


def batch_sampler(source: SampleSource | Mixture, batch_size: int, **plan: Unpack[Plan]) -> BatchSampler:
    """The sampler of a data set, or of several; see `BatchSampler`."""
    if isinstance(source, Mixture):
        return MixtureSampler(source, batch_size, **plan)
    return BatchSampler(len(source), batch_size, **plan)
