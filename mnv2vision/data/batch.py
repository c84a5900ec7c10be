"""From samples to batches whose randomness is a function of (seed, epoch, index) alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from mnv2vision.data.sample import BoxKind, Sample, SampleSource
from mnv2vision.errors import ConfigError, DataError

OnError = Literal["raise", "skip"]
Transform = Callable[[Sample, int], Sample]
"""Takes a sample and the seed of everything it draws."""


class BatchKey(NamedTuple):
    """What the sampler hands to a worker: enough to make the batch the same in any process."""

    epoch: int
    indices: list[int]


@dataclass
class Batch:
    """A batch as it travels.

    Attributes:
        images: (N, 3, H, W) uint8, channels last in memory.
        image_ids: N identifiers.
        labels: (N,) int64, for classification.
        boxes: (N, M, 4) float32 (x1, y1, x2, y2) in 0..1 of the images, padded; for training a detector.
        box_labels: (N, M) int64.
        box_kinds: (N, M) uint8, see `BoxKind`.
        masks: (N, H, W) uint8, 255 = ignore; for training a segmentation model.
        truth: N samples without their images, with the targets at the photos' own sizes; for evaluation.
        skipped: Messages about unreadable files that were replaced, with data.on_error=skip.
        error: What stops the run; raised in the main process, where it can be told in one line.
    """

    images: Tensor
    image_ids: list[int | str]
    labels: Tensor | None = None
    boxes: Tensor | None = None
    box_labels: Tensor | None = None
    box_kinds: Tensor | None = None
    masks: Tensor | None = None
    truth: list[Sample] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    error: str | None = None

    def to(self, device: torch.device) -> "Batch":
        """Move the tensors, without waiting where the memory is pinned."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """Called by the data loader's pinning thread."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        for name in ("images", "labels", "boxes", "box_labels", "box_kinds", "masks"):
            if (tensor := getattr(self, name)) is not None:
                setattr(self, name, function(tensor))
        return self


def sample_seed(*parts: int) -> int:
    """A well-mixed 32-bit seed from several small numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


class BatchSampler(Sampler[BatchKey]):
    """The order of an epoch, this process's share of it, and where to go on after a resume."""

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
            seed: Of the order.
            rank: Of this process.
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
        """Resume: `batch` batches of `epoch` are done already."""
        done = batch >= len(self)
        self.epoch = epoch + done
        self.first_batch = 0 if done else batch


class BatchDataset(Dataset[Batch]):
    """Makes whole batches of a data set's samples; runs in the workers."""

    def __init__(self, source: SampleSource, transform: Transform, *, seed: int, on_error: OnError) -> None:
        if on_error not in ("raise", "skip"):
            raise ConfigError(f"data.on_error={on_error!r} is unknown; valid: raise, skip")
        self.source = source
        self.transform = transform
        self.seed = seed
        self.on_error = on_error

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: BatchKey) -> Batch:
        skipped: list[str] = []
        try:
            return collate([self._sample(key.epoch, index, skipped) for index in key.indices], skipped)
        except DataError as error:
            return Batch(torch.empty(0, dtype=torch.uint8), [], error=str(error))

    def _sample(self, epoch: int, index: int, skipped: list[str]) -> Sample:
        # A sample that replaces an unreadable one keeps batches full; evaluators drop duplicates by image id.
        for step in range(len(self.source)):
            try:
                sample = self.source[(index + step) % len(self.source)]
            except DataError as error:
                if self.on_error == "raise":
                    raise
                skipped.append(str(error))
            else:
                return self.transform(sample, sample_seed(self.seed, epoch, index))
        raise DataError(f"none of the {len(self.source)} files of the data set can be read; the last: {skipped[-1]}")


_NO_IMAGE = np.empty((0, 0, 3), np.uint8)
_BOX_STEP = 16  # padding to a multiple keeps shapes few, for compiled code


def collate(samples: Sequence[Sample], skipped: list[str]) -> Batch:
    """Stack samples of one image size."""
    images = torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2)
    batch = Batch(images, [sample.image_id for sample in samples], skipped=skipped)
    if all(sample.size is not None for sample in samples):
        batch.truth = [replace(sample, image=_NO_IMAGE) for sample in samples]
    elif all(sample.boxes is not None for sample in samples):
        _pad_boxes(batch, samples)
    else:
        masks = [sample.mask for sample in samples if sample.mask is not None and sample.mask.shape == images.shape[2:]]
        if len(masks) == len(samples):
            batch.masks = torch.from_numpy(np.stack(masks))
    labels = [sample.label for sample in samples if sample.label is not None]
    if len(labels) == len(samples):
        batch.labels = torch.tensor(labels)
    return batch


def _pad_boxes(batch: Batch, samples: Sequence[Sample]) -> None:
    counts = [0 if sample.labels is None else len(sample.labels) for sample in samples]
    shape = (len(samples), -(-max(counts) // _BOX_STEP) * _BOX_STEP)
    boxes, labels, kinds = torch.zeros(*shape, 4), torch.zeros(shape).long(), torch.zeros(shape, dtype=torch.uint8)
    height, width = batch.images.shape[-2:]
    for i, (sample, n) in enumerate(zip(samples, counts, strict=True)):
        if not n:
            continue
        assert sample.boxes is not None
        assert sample.labels is not None
        boxes[i, :n] = torch.from_numpy(sample.boxes) / torch.tensor([width, height, width, height])
        labels[i, :n] = torch.from_numpy(sample.labels)
        kinds[i, :n] = BoxKind.OBJECT
        for mask, kind in ((sample.is_crowd, BoxKind.CROWD), (sample.difficult, BoxKind.DIFFICULT)):
            if mask is not None:
                kinds[i, :n][torch.from_numpy(mask)] = kind
    batch.boxes, batch.box_labels, batch.box_kinds = boxes, labels, kinds
