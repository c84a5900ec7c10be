"""The data module: workers that persist, batches of uint8, and a place to go on from after a resume."""

import logging
import os
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from mnv2vision.data.batch import Batch, BatchDataset, BatchSampler, OnError, Transform
from mnv2vision.data.sample import SampleSource
from mnv2vision.distributed import gather
from mnv2vision.errors import ConfigError, DataError

log = logging.getLogger(__name__)


class DataModule(pl.LightningDataModule):
    """Train and validation batches of any data set for any task."""

    def __init__(
        self,
        train: tuple[SampleSource, Transform] | None,
        val: tuple[SampleSource, Transform] | None,
        *,
        batch_size: int,
        workers: int | None = None,
        seed: int = 0,
        on_error: OnError = "raise",
    ) -> None:
        """Hold the data.

        Args:
            train: Training samples and their augmentation.
            val: Validation samples and their transform.
            batch_size: Per process.
            workers: Processes that read ahead, for each of training and validation; None takes half of the cores
                that this process has beside the others of its machine, at most eight.
            seed: Of orders and augmentations.
            on_error: "raise" stops at a file that cannot be read; "skip" replaces it, and lists it at the end.
        """
        super().__init__()
        if batch_size < 1:
            raise ConfigError(f"loader.batch_size={batch_size} must be at least 1")
        if workers is not None and workers < 0:
            raise ConfigError(f"loader.workers={workers} must not be negative")
        self.workers = workers
        self.batch_size = batch_size
        self.seed = seed
        self.skipped: set[str] = set()
        self._train = BatchDataset(*train, seed=seed, on_error=on_error) if train else None
        self._val = BatchDataset(*val, seed=seed, on_error=on_error) if val else None
        self._sampler: BatchSampler | None = None
        self._resume: tuple[int, int] | None = None

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled, augmented, full batches."""
        assert self._train is not None
        self._sampler = self._batch_sampler(len(self._train), training=True)
        if self._resume is not None:
            self._sampler.go_on_at(*self._resume)
        return self._loader(self._train, self._sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Every sample once, in order, over all processes."""
        assert self._val is not None
        return self._loader(self._val, self._batch_sampler(len(self._val), training=False))

    def _batch_sampler(self, length: int, training: bool) -> BatchSampler:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if not training:
            # Lightning leaves a process without a batch out, and the others would wait for it; so it repeats an image,
            # which evaluators count once.
            rank = min(rank, length - 1)
        return BatchSampler(
            length, self.batch_size, training=training, seed=self.seed, rank=rank, world_size=world_size
        )

    def _loader(self, dataset: BatchDataset, sampler: BatchSampler) -> DataLoader[Batch]:
        workers = self._share_of_cores() if self.workers is None else self.workers
        return DataLoader(
            dataset,
            batch_size=None,  # the data set makes whole batches
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _share_of_cores(self) -> int:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # Of this machine, as torchrun, SLURM and Lightning, which starts them itself elsewhere, count them.
        told = [int(os.environ.get(name, 1)) for name in ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE")]
        processes = max(*told, self.trainer.num_devices if self.trainer else 1)
        return min(8, max(1, cores // (2 * processes)))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Raise what stopped a worker, note what it skipped, and move the rest."""
        if batch.error is not None:
            raise DataError(batch.error)
        self.skipped.update(batch.skipped)
        return batch.to(device)

    def log_skipped(self) -> None:
        """List the files that any process could not read (data.on_error=skip)."""
        if skipped := self._all_skipped():
            log.warning("%d unreadable files were skipped:\n  %s", len(skipped), "\n  ".join(skipped))

    def _all_skipped(self) -> list[str]:
        return sorted(set().union(*gather(self.skipped)))

    def state_dict(self) -> dict[str, Any]:
        """How far the present epoch has come, for a checkpoint."""
        assert self.trainer is not None
        epochs: Any = self.trainer.fit_loop.epoch_progress.current
        batches: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        amid = epochs.ready > epochs.processed  # not by the number of batches: limits make epochs shorter
        return {
            "epoch": epochs.processed,
            "batch": batches.processed if amid else 0,
            "global_batch": self.batch_size * self.trainer.world_size,
            "skipped": self._all_skipped(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint was written."""
        self._resume = (state_dict["epoch"], state_dict["batch"])
        self.skipped.update(state_dict["skipped"])
        if self._sampler is not None:
            self._sampler.go_on_at(*self._resume)
