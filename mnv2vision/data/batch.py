"""From samples to batches; randomness is a function of (seed, epoch, index) alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from mnv2vision.data.mixture import Mixture
from mnv2vision.data.readers import has_room
from mnv2vision.data.sample import IGNORE_INDEX, NO_LABEL, Sample, SampleSource
from mnv2vision.data.sampler import BatchKey
from mnv2vision.data.targets import BoxTargets, check_mask, stack_boxes, stack_labels, stack_masks
from mnv2vision.errors import ConfigError, DataError

OnError = Literal["raise", "skip"]
Transform = Callable[[Sample, int], Sample]
"""Transforms a sample; the seed determines all random draws."""


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
        source = self.source
        others = source.indices(source.part(index)) if isinstance(source, Mixture) else range(len(source))
        for step in range(len(others)):
            try:
                sample = source[others[(index - others.start + step) % len(others)]]
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
