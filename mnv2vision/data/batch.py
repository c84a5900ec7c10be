"""From samples to batches; randomness is a function of (seed, epoch, index) alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, get_worker_info

from mnv2vision.data.readers import has_room
from mnv2vision.data.sample import IGNORE_INDEX, NO_LABEL, Sample, SampleSource
from mnv2vision.data.targets import BoxTargets, check_mask, stack_boxes, stack_labels, stack_masks
from mnv2vision.errors import ConfigError, DataError

OnError = Literal["raise", "skip"]
Transform = Callable[[Sample, int], Sample]
"""Transforms a sample; the seed determines all random draws."""


class BatchKey(NamedTuple):
    """What the sampler passes to a worker: enough to produce the same batch in any process."""

    epoch: int
    indices: list[int]
    passes: list[int] | None = None
    """How often each sample's data set was gone through before; the epoch by default."""


@dataclass
class Batch:
    """A batch in transit. Samples may have different targets; a target that no sample has is None.

    Attributes:
        images: (N, 3, H, W) uint8, channels last in memory.
        image_ids: N identifiers.
        labels: (N,) int64, the classes of the images, -1 where absent.
        boxes: The objects; training only.
        masks: (N, H, W) uint8, 255 = ignore, everywhere if absent; training only.
        has_mask: (N,) bool, which samples have a mask; given with `masks`.
        parts: (N,) int64, of which data set of a mixture each sample is.
        unknown: (N, C) bool, classes of a head that a sample's data set does not annotate; None if it does all. Of a
            batch as a head sees it, see `of_head`.
        lacking: Those of "label", "boxes" and "mask" that at least one sample lacks.
        truth: N samples without images, with targets at the photos' original sizes; evaluation only.
        skipped: Messages about unreadable files that were replaced (data.on_error=skip).
        error: An error that stops the run; raised in the main process, which reports it in one line.
        by_value: Whether it is sent through a pipe because shared memory is scarce.
    """

    images: Tensor
    image_ids: list[int | str]
    labels: Tensor | None = None
    boxes: BoxTargets | None = None
    masks: Tensor | None = None
    has_mask: Tensor | None = None
    parts: Tensor | None = None
    unknown: Tensor | None = None
    lacking: frozenset[str] = frozenset()
    truth: list[Sample] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    error: str | None = None
    by_value: bool = False

    def share(self) -> "Batch":
        """Move the tensors to shared memory; if there is no room, they will be sent by value.

        The queue between the processes would drop such a batch, and the main process would wait for it forever.
        """
        sizes: list[int] = []
        self._map(lambda tensor: sizes.append(tensor.nbytes))
        self.by_value = not has_room(sum(sizes))
        if not self.by_value:
            try:
                self._map(Tensor.share_memory_)
            except RuntimeError:  # another process took the room
                self.by_value = True
        return self

    def __getstate__(self) -> dict[str, object]:
        if not self.by_value:
            return self.__dict__
        state = self._map(Tensor.numpy)
        return self.__dict__ | state | {"images": state["images"].transpose(0, 2, 3, 1)}  # their layout in memory

    def __setstate__(self, state: Mapping[str, object]) -> None:
        self.__dict__.update(state)
        if self.by_value:
            self.__dict__.update(self._map(torch.from_numpy))
            self.images = self.images.permute(0, 3, 1, 2)

    def to(self, device: torch.device) -> "Batch":
        """Move the tensors, asynchronously if their memory is pinned."""
        self.__dict__.update(self._map(lambda tensor: tensor.to(device, non_blocking=True)))
        return self

    def of_head(self, serving: Tensor, unknown: Tensor | None = None) -> "Batch":
        """The batch as a head sees it: samples of data sets that do not serve it lack its target.

        Args:
            serving: (P,) bool, whether each data set serves the head.
            unknown: (P, C) bool, the head's classes that each data set does not annotate.
        """
        assert self.parts is not None
        mine = serving[self.parts]
        seen = replace(self, lacking=frozenset(("label", "boxes", "mask")))
        if self.labels is not None:
            seen.labels = self.labels.where(mine, NO_LABEL)
        if self.boxes is not None:
            seen.boxes = self.boxes._replace(present=self.boxes.present & mine)
        if self.masks is not None and self.has_mask is not None:
            seen.masks = self.masks.where(mine[:, None, None], IGNORE_INDEX)
            seen.has_mask = self.has_mask & mine
        seen.unknown = None if unknown is None else unknown[self.parts]
        return seen

    def has(self, target: str) -> Tensor:
        """(N,) bool, which samples have a target: "label", "boxes" or "mask"."""
        if target == "label":
            there = None if self.labels is None else self.labels != NO_LABEL
        elif target == "boxes":
            there = None if self.boxes is None else self.boxes.present
        else:
            there = self.has_mask
        return torch.zeros(len(self.image_ids), dtype=torch.bool, device=self.images.device) if there is None else there

    def pin_memory(self) -> "Batch":
        """Called by the data loader's pinning thread."""
        self.__dict__.update(self._map(Tensor.pin_memory))
        return self

    def _map(self, function: Callable[[Any], Any]) -> dict[str, Any]:
        """A function's result for each tensor, by attribute."""
        values = {name: getattr(self, name) for name in ("images", "labels", "masks", "has_mask", "parts")}
        made = {name: function(value) for name, value in values.items() if value is not None}
        return made if self.boxes is None else made | {"boxes": BoxTargets(*map(function, self.boxes))}


def sample_seed(*parts: int) -> int:
    """A well-mixed 32-bit seed from several small numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


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


@runtime_checkable
class _Parted(Protocol):
    """A mixture of data sets, whose samples are replaced by others of the same one."""

    def part(self, index: int) -> int: ...

    def indices(self, part: int) -> range: ...


class BatchDataset(Dataset[Batch]):
    """Makes whole batches from a data set's samples; runs in the workers."""

    def __init__(
        self,
        source: SampleSource,
        transform: Transform,
        *,
        seed: int,
        on_error: OnError,
        evaluation: bool = False,
    ) -> None:
        """Wrap a data set.

        Args:
            source: The samples.
            transform: Applied to each sample, with its own seed.
            seed: Base seed of the transforms.
            on_error: "raise" or "skip"; see `DataModule`.
            evaluation: Whether to pass targets as `truth`, at the photos' original sizes; otherwise they are stacked.
        """
        if on_error not in ("raise", "skip"):
            raise ConfigError(f"data.on_error={on_error!r} is unknown; valid: raise, skip")
        self.source = source
        self.transform = transform
        self.seed = seed
        self.on_error = on_error
        self.evaluation = evaluation

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: BatchKey) -> Batch:
        skipped: list[str] = []
        try:
            passes = key.passes or [key.epoch] * len(key.indices)
            samples = [self._sample(*place, skipped) for place in zip(passes, key.indices, strict=True)]
            batch = collate(samples, skipped, evaluation=self.evaluation)
            return batch if get_worker_info() is None else batch.share()
        except DataError as error:
            return Batch(torch.empty(0, dtype=torch.uint8), [], error=str(error))

    def _sample(self, epoch: int, index: int, skipped: list[str]) -> Sample:
        # A sample that replaces an unreadable one keeps batches full; evaluators drop duplicates by image id.
        others = self.source.indices(self.source.part(index)) if isinstance(self.source, _Parted) else None
        others = others or range(len(self.source))
        for step in range(len(others)):
            try:
                sample = self.source[others[(index - others.start + step) % len(others)]]
            except DataError as error:
                if self.on_error == "raise":
                    raise
                skipped.append(str(error))
            else:
                return self.transform(sample, sample_seed(self.seed, epoch, index))
        raise DataError(f"none of the {len(others)} files of the data set can be read; the last: {skipped[-1]}")


_NO_IMAGE = np.empty((0, 0, 3), np.uint8)


def collate(samples: Sequence[Sample], skipped: list[str], *, evaluation: bool = False) -> Batch:
    """Stack samples of one image size.

    Args:
        samples: N of them.
        skipped: Messages about unreadable files.
        evaluation: Whether boxes and masks are at the photos' original sizes, and passed unchanged.

    Raises:
        DataError: If a mask's size differs from its image's.
    """
    images = torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2)
    batch = Batch(images, [sample.image_id for sample in samples], stack_labels(samples), skipped=skipped)
    batch.parts = torch.tensor([sample.part for sample in samples])
    batch.lacking = frozenset(
        name for name in ("label", "boxes", "mask") if any(getattr(sample, name) is None for sample in samples)
    )
    for sample in samples:
        check_mask(sample, sample.size if evaluation else sample.image.shape[:2])
    if evaluation:
        batch.truth = [replace(sample, image=_NO_IMAGE) for sample in samples]
        return batch
    batch.boxes = stack_boxes(samples)
    if (stacked := stack_masks(samples)) is not None:
        batch.masks, batch.has_mask = stacked
    return batch
