"""The data module: persistent workers, batches of uint8, and a position to resume from."""

import logging
import os
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from mnv2vision.common.distributed import gather
from mnv2vision.common.processes import in_srun
from mnv2vision.common.threads import usable_cores
from mnv2vision.data.batch import Batch, BatchDataset, OnError, Transform
from mnv2vision.data.readers import start_reader
from mnv2vision.data.sample import SampleSource
from mnv2vision.data.sampler import BatchSampler, batch_sampler
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
        identity: Mapping[str, object] | None = None,
    ) -> None:
        """Set up the data.

        Args:
            train: Training samples and their augmentation.
            val: Validation samples and their transform.
            batch_size: Per process.
            workers: Worker processes for each of training and validation; by default half of this process's share of
                the machine's cores, at most eight.
            seed: Seed of orders and augmentations.
            on_error: "raise" stops at an unreadable file; "skip" replaces it and lists it at the end.
            identity: Identifies the data in checkpoints, in plain values.
        """
        super().__init__()
        if batch_size < 1:
            raise ConfigError(f"loader.batch_size={batch_size} must be at least 1")
        if workers is not None and workers < 0:
            raise ConfigError(f"loader.workers={workers} must not be negative")
        self.workers = workers
        self.batch_size = batch_size
        self.seed = seed
        self.identity = dict(identity or {})
        self.skipped: set[str] = set()
        self._lacks_room = False
        self._train = BatchDataset(*train, seed=seed, on_error=on_error) if train else None
        self._val = BatchDataset(*val, seed=seed, on_error=on_error, evaluation=True) if val else None
        self._sampler: BatchSampler | None = None
        self._resume: tuple[int, int] | None = None

    @property
    def train_samples(self) -> SampleSource:
        """The training samples, as they are before augmentation."""
        assert self._train is not None
        return self._train.source

    @property
    def val_samples(self) -> SampleSource:
        """The validation samples, as they are before any transform."""
        assert self._val is not None
        return self._val.source

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled, augmented, full batches."""
        assert self._train is not None
        self._sampler = self._batch_sampler(self._train.source, training=True)
        if self._resume is not None:
            self._sampler.go_on_at(*self._resume)
        return self._loader(self._train, self._sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Every sample once, in order, over all processes."""
        assert self._val is not None
        return self._loader(self._val, self._batch_sampler(self._val.source, training=False))

    def _batch_sampler(self, source: SampleSource, training: bool) -> BatchSampler:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if not training:
            # Lightning skips a process without batches, and the others would wait for it; so it repeats an image, which
            # evaluators count once.
            rank = min(rank, len(source) - 1)
        return batch_sampler(
            source, self.batch_size, training=training, seed=self.seed, rank=rank, world_size=world_size
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
            worker_init_fn=start_reader,
        )

    def _share_of_cores(self) -> int:
        # The processes on this machine, as counted by torchrun, SLURM or Lightning.
        names = ["LOCAL_WORLD_SIZE", *(["SLURM_NTASKS_PER_NODE"] if in_srun() else [])]
        told = [int(os.environ.get(name, 1)) for name in names]
        processes = max(*told, self.trainer.num_devices if self.trainer else 1)
        return min(8, max(1, usable_cores() // (2 * processes)))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Raise a worker's error, note the files it skipped, and move the tensors."""
        if batch.error is not None:
            raise DataError(batch.error)
        if batch.by_value and not self._lacks_room:
            self._lacks_room = True
            log.warning(
                "/dev/shm has no room for the batches of the workers: they are sent through pipes, which is slower;"
                " enlarge it (docker run --shm-size=1g), or lower loader.workers"
            )
        self.skipped.update(batch.skipped)
        return batch.to(device)

    def log_skipped(self) -> None:
        """List the files that any process could not read (data.on_error=skip)."""
        if skipped := self._all_skipped():
            log.warning("%d unreadable files were skipped:\n  %s", len(skipped), "\n  ".join(skipped))

    def _all_skipped(self) -> list[str]:
        return sorted(set().union(*gather(self.skipped)))

    def state_dict(self) -> dict[str, object]:
        """The position in the current epoch, for a checkpoint."""
        assert self.trainer is not None
        epochs: Any = self.trainer.fit_loop.epoch_progress.current
        batches: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        amid = epochs.ready > epochs.processed  # not by the number of batches: limits make epochs shorter
        return {
            "epoch": epochs.processed,
            "batch": batches.processed if amid else 0,
            "global_batch": self.batch_size * self.trainer.world_size,
            "skipped": self._all_skipped(),
            "identity": self.identity,
        }

    def load_state_dict(self, state_dict: Mapping[str, object]) -> None:
        """Continue where a checkpoint was written."""
        state: Mapping[str, Any] = state_dict
        self._resume = (state["epoch"], state["batch"])
        self.skipped.update(state["skipped"])
        if self._sampler is not None:
            self._sampler.go_on_at(*self._resume)
