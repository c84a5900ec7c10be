"""The randomness of a sample is a function of (seed, epoch, index) alone, and so is the order."""

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mnv2vision.data import loader as datamodule
from mnv2vision.data.augment.classification import ClassificationAugmentation, EvaluationTransform
from mnv2vision.data.augment.detection import DetectionAugmentation
from mnv2vision.data.batch import Batch, BatchDataset, collate, sample_seed
from mnv2vision.data.formats.imagenet import ImageNet
from mnv2vision.data.formats.shapes import Shapes
from mnv2vision.data.loader import DataModule
from mnv2vision.data.sample import Boxes, BoxKind, Sample
from mnv2vision.data.sampler import BatchKey, BatchSampler
from mnv2vision.errors import ConfigError, DataError
from mnv2vision.preprocessing import Preprocessing, as_pair

SIZE = (40, 48)
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "paper": {"crop_scale": (0.1, 1.0), "color_jitter": 0.4},
    "modern": {"rand_augment": 9, "erasing": 0.5},
}


class Source:
    """A few images, some of which cannot be read."""

    names = ("one", "two")
    targets = frozenset({"label"})

    def __init__(self, length: int = 12, broken: tuple[int, ...] = ()) -> None:
        self.length = length
        self.broken = broken

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if index in self.broken:
            raise DataError(f"/data/{index}.jpg: damaged")
        image = np.random.default_rng(7).integers(0, 256, (60, 70, 3), dtype=np.uint8)  # the same one every time
        return Sample(image, image_id=index, path=f"/data/{index}.jpg", label=index % 2)


def module(source: Any, workers: int | None, *, seed: int = 0, kind: str = "paper", **options: Any) -> DataModule:
    augmentation = ClassificationAugmentation(Preprocessing(image_size=SIZE), **AUGMENTATIONS[kind])
    evaluation = EvaluationTransform(Preprocessing(image_size=SIZE))
    return DataModule((source, augmentation), (source, evaluation), seed=seed, workers=workers, **options)


def epoch_of(data: DataModule, epoch: int = 0) -> list[Batch]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
    return list(loader)


def by_id(batches: list[Batch]) -> dict[Any, torch.Tensor]:
    return {image_id: image for batch in batches for image_id, image in zip(batch.image_ids, batch.images, strict=True)}


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_any_number_of_workers_gives_the_same_batches(kind: str) -> None:
    reference = epoch_of(module(Source(), 0, kind=kind, batch_size=4), 3)
    torch.manual_seed(1)  # nobody is to depend on the global generators
    np.random.seed(1)  # noqa: NPY002
    for workers in (0, 1, 2):
        batches = epoch_of(module(Source(), workers, kind=kind, batch_size=4), 3)
        assert len(batches) == 3
        for ours, theirs in zip(batches, reference, strict=True):
            assert ours.image_ids == theirs.image_ids
            assert torch.equal(ours.images, theirs.images)
            assert ours.labels is not None
            assert theirs.labels is not None
            assert torch.equal(ours.labels, theirs.labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_no_two_draws_are_alike(workers: int) -> None:
    """All images of this source are one: equal results mean equal draws, as of workers with copied generators."""
    data = module(Source(), workers, batch_size=2)
    images = [image for epoch in (0, 1) for image in by_id(epoch_of(data, epoch)).values()]
    assert len(images) == 24
    assert len({image.numpy().tobytes() for image in images}) == 24
    other_seed = by_id(epoch_of(module(Source(), workers, seed=1, batch_size=2)))
    assert not {image.numpy().tobytes() for image in other_seed.values()} & {im.numpy().tobytes() for im in images}


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_a_sample_does_not_depend_on_what_came_before(kind: str) -> None:
    augmentation = ClassificationAugmentation(Preprocessing(image_size=SIZE), **AUGMENTATIONS[kind])
    data = BatchDataset(Shapes("train", 20, image_size=48), augmentation, seed=5, on_error="raise")
    before = torch.random.get_rng_state()
    forward = by_id([data[BatchKey(2, [1, 3, 5, 7])]])
    assert torch.equal(before, torch.random.get_rng_state())  # nor moves the generator of dropout
    again = BatchDataset(Shapes("train", 20, image_size=48), augmentation, seed=5, on_error="raise")
    backward = by_id([again[BatchKey(2, [index])] for index in (7, 0, 5, 3, 1)])
    assert all(torch.equal(image, backward[key]) for key, image in forward.items())
    other_epoch = by_id([data[BatchKey(3, [1, 3, 5, 7])]])
    assert not any(torch.equal(image, other_epoch[key]) for key, image in forward.items())


def test_seeds_do_not_collide() -> None:
    seeds = {sample_seed(seed, epoch, index) for seed in range(3) for epoch in range(20) for index in range(100)}
    assert len(seeds) == 6000
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert sample_seed(1, 2, 3) != sample_seed(3, 2, 1)


def test_batches_are_uint8_and_channels_last() -> None:
    data = module(Shapes("train", 10, image_size=64), 0, batch_size=3)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        batch = next(iter(loader))
        assert batch.images.shape == (3, 3, *SIZE)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels is not None
        assert batch.labels.dtype == torch.int64
        wanted = {image_id: sample.label for image_id, sample in samples(Shapes("train", 10, image_size=64))}
        assert batch.labels.tolist() == [wanted[image_id] for image_id in batch.image_ids]


def samples(source: Any) -> Iterator[tuple[Any, Sample]]:
    for index in range(len(source)):
        yield source[index].image_id, source[index]


def test_evaluation_is_the_models_preprocessing_alone() -> None:
    data = module(Source(), 0, batch_size=5)
    wanted = Preprocessing(image_size=SIZE).prepare(Source()[0].image)
    for batch in data.val_dataloader():
        for image in batch.images:
            np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), wanted)


# ---- order and shares ----


def indices(sampler: BatchSampler) -> list[int]:
    return [index for key in sampler for index in key.indices]


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 80), st.integers(1, 9), st.integers(1, 4), st.integers(0, 3), st.integers(0, 50))
def test_training_shares(length: int, batch: int, world: int, seed: int, epoch: int) -> None:
    samplers = [
        BatchSampler(length, batch, training=True, seed=seed, rank=rank, world_size=world) for rank in range(world)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    shares = [list(sampler) for sampler in samplers]
    # Every process has as many batches, all of them full.
    assert {len(share) for share in shares} == {len(samplers[0])}
    assert all(len(key.indices) == batch and key.epoch == epoch for share in shares for key in share)
    everything = [index for share in shares for key in share for index in key.indices]
    if length >= batch * world:
        assert len(set(everything)) == len(everything)
        assert length - len(everything) < batch * world  # what is left out does not fill a batch for each
    else:  # repeated until it does
        assert set(everything) == set(range(length))
        assert len(everything) == batch * world
    assert set(everything) <= set(range(length))


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 80), st.integers(1, 9), st.integers(1, 5))
def test_validation_covers_each_sample_once(length: int, batch: int, world: int) -> None:
    samplers = [BatchSampler(length, batch, training=False, rank=rank, world_size=world) for rank in range(world)]
    shares = [indices(sampler) for sampler in samplers]
    everything = sorted(index for share in shares for index in share)
    assert everything == list(range(length))
    assert all(share == sorted(share) for share in shares)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for sampler in samplers:
        assert len(list(sampler)) == len(sampler)


def test_the_order_is_a_permutation_that_changes_with_epoch_and_seed() -> None:
    def order(epoch: int, seed: int = 0) -> list[int]:
        sampler = BatchSampler(60, 4, training=True, seed=seed)
        sampler.set_epoch(epoch)
        return indices(sampler)

    assert sorted(order(0)) == list(range(60))
    assert order(0) != list(range(60))
    assert order(3) == order(3)
    assert len({tuple(order(epoch, seed)) for epoch in range(5) for seed in range(5)}) == 25


@given(st.integers(0, 5), st.integers(0, 14))
def test_going_on_where_it_stopped(epoch: int, done: int) -> None:
    whole = BatchSampler(60, 4, training=True, seed=3)
    whole.set_epoch(epoch)
    resumed = BatchSampler(60, 4, training=True, seed=3)
    resumed.go_on_at(epoch, done)
    resumed.set_epoch(epoch)  # as Lightning does at the start of the resumed epoch
    assert list(resumed) == list(whole)[done:]
    assert len(resumed) == 15  # of the epoch, whatever is done already
    resumed.set_epoch(epoch + 1)
    whole.set_epoch(epoch + 1)
    assert list(resumed) == list(whole)


def test_going_on_at_the_end_of_an_epoch_begins_the_next() -> None:
    next_epoch = BatchSampler(60, 4, training=True)
    next_epoch.set_epoch(8)
    resumed = BatchSampler(60, 4, training=True)
    resumed.go_on_at(7, 15)
    resumed.set_epoch(8)
    assert list(resumed) == list(next_epoch)


def test_an_empty_data_set() -> None:
    with pytest.raises(DataError, match="empty"):
        BatchSampler(0, 4, training=True)


# ---- files that cannot be read ----


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_file_stops_the_run_in_one_line(workers: int, tmp_path: Path) -> None:
    for index in range(6):
        path = tmp_path / f"train/{'ab'[index % 2]}/{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 50), (index, 0, 0)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    data = module(ImageNet(tmp_path, "train"), workers, batch_size=2)

    def read_all() -> None:
        for batch in data.train_dataloader():
            data.transfer_batch_to_device(batch, torch.device("cpu"), 0)

    with pytest.raises(DataError) as caught:
        read_all()
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_files_are_skipped_and_listed(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = module(Source(12, broken=(2, 3, 11)), workers, batch_size=4, on_error="skip")
    seen: list[Any] = []
    for loader in (data.train_dataloader(), data.val_dataloader()):
        ids = []
        for batch in loader:
            data.transfer_batch_to_device(batch, torch.device("cpu"), 0)
            assert len(batch.images) == 4  # batches stay full
            assert batch.labels is not None
            assert batch.labels.tolist() == [image_id % 2 for image_id in batch.image_ids]  # type: ignore[operator]
            ids += batch.image_ids
        seen.append(ids)
    for ids in seen:
        assert len(ids) == 12
        assert set(ids) == set(range(12)) - {2, 3, 11}
    assert data.skipped == {f"/data/{index}.jpg: damaged" for index in (2, 3, 11)}
    told: list[str] = []
    monkeypatch.setattr(datamodule.log, "warning", lambda text, *values: told.append(text % values))
    data.log_skipped()
    (text,) = told
    assert text.startswith("3 unreadable files were skipped:")
    assert all(text.count(f"/data/{index}.jpg: damaged") == 1 for index in (2, 3, 11))


def test_skipping_everything_is_an_error() -> None:
    data = BatchDataset(Source(3, broken=(0, 1, 2)), EvaluationTransform(Preprocessing()), seed=0, on_error="skip")
    error = data[BatchKey(0, [1])].error
    assert error is not None
    assert "none of the 3 files" in error
    assert "damaged" in error


def test_a_replaced_sample_keeps_its_own_draws() -> None:
    """The epoch's other images do not change because one file is broken."""
    whole = by_id([batch_of(())])
    holed = by_id([batch_of((4,))])
    assert all(torch.equal(whole[key], image) for key, image in holed.items() if key != 5)


def batch_of(broken: tuple[int, ...]) -> Batch:
    augmentation = ClassificationAugmentation(Preprocessing(image_size=SIZE), **AUGMENTATIONS["paper"])
    return BatchDataset(Source(12, broken), augmentation, seed=0, on_error="skip")[BatchKey(0, [1, 4, 8])]


@pytest.mark.parametrize(
    ("environment", "devices", "workers"),
    [
        ({}, None, 8),  # half of 64 cores, at most eight
        ({}, 1, 8),
        ({}, 8, 4),  # started by Lightning
        ({"LOCAL_WORLD_SIZE": "16"}, 1, 2),  # by torchrun
        ({"SLURM_NTASKS_PER_NODE": "4"}, 4, 8),
        ({"LOCAL_WORLD_SIZE": "100"}, 100, 1),
    ],
)
def test_the_processes_of_a_machine_share_its_cores(
    environment: dict[str, str], devices: int | None, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datamodule.os, "sched_getaffinity", lambda _: range(64), raising=False)
    for name in ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE"):
        monkeypatch.delenv(name, raising=False)
    data = module(Source(), None, batch_size=2)
    # Known only when the loaders are made: the data module comes first.
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if devices:
        data.trainer = SimpleNamespace(global_rank=0, world_size=devices, num_devices=devices)  # type: ignore[assignment]
    assert data.val_dataloader().num_workers == workers
    assert data.train_dataloader().num_workers == workers
    data = module(Source(), 3, batch_size=2)
    assert data.val_dataloader().num_workers == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "ignore"}, r"on_error='ignore' is unknown; valid: raise, skip"),
        ({"batch_size": 0}, r"loader\.batch_size=0"),
        ({"workers": -1}, r"loader\.workers=-1"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    on_error: Literal["raise"] = "raise"
    with pytest.raises(ConfigError, match=message):
        module(Source(), **({"workers": 0, "batch_size": 2, "on_error": on_error} | options))


def test_augmentations_change_images_as_they_should() -> None:
    y, x = np.mgrid[:64, :64]
    image = np.stack([4 * x, 4 * y, 0 * x], 2).clip(0, 255).astype(np.uint8)
    sample = Sample(image, image_id=0, path="x", label=1)
    whole = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}
    same = ClassificationAugmentation(Preprocessing(image_size=(64, 64)), **whole, flip=0.0)
    np.testing.assert_array_equal(same(sample, 3).image, image)
    mirrored = ClassificationAugmentation(Preprocessing(image_size=(64, 64)), **whole, flip=1.0)
    np.testing.assert_array_equal(mirrored(sample, 3).image, image[:, ::-1])
    half = ClassificationAugmentation(Preprocessing(image_size=(64, 64)), **whole, flip=0.5)
    flips = [bool(half(sample, seed).image[0, 0, 0]) for seed in range(300)]
    assert 110 < sum(flips) < 190
    # A crop's red and green tell where it lies: its area keeps to the range.
    crop = ClassificationAugmentation(
        Preprocessing(image_size=(64, 64)), crop_scale=(0.2, 0.4), crop_ratio=(0.75, 4 / 3), flip=0.0
    )
    for seed in range(50):
        part = crop(sample, seed).image.astype(float)
        width, height = np.ptp(part[..., 0]) / 4 + 1, np.ptp(part[..., 1]) / 4 + 1
        assert 0.17 < width * height / 64**2 < 0.43
        assert 0.68 < width / height < 1.47
    assert crop(sample, 1).label == 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("image_size", [None, 40, (40, 24)])
def test_a_crop_is_resized_as_in_evaluation(interpolation: Any, antialias: bool, image_size: Any) -> None:
    """A crop that is the whole image gives what the model's preprocessing makes of it."""
    image = np.random.default_rng(3).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    sample = Sample(image, image_id=0, path="x", label=1)
    preprocessing = Preprocessing(image_size=(48, 64), interpolation=interpolation, antialias=antialias)
    augmentation = ClassificationAugmentation(
        preprocessing, image_size=image_size, crop_scale=(1.0, 1.0), crop_ratio=(4 / 3, 4 / 3), flip=0.0
    )
    size = (48, 64) if image_size is None else as_pair(image_size)
    wanted = replace(preprocessing, image_size=size, resize="stretch").prepare(image)
    image.flags.writeable = False
    np.testing.assert_array_equal(augmentation(sample, 5).image, wanted)


# ---- boxes ----


def boxed(count: int, image_id: int = 0, size: tuple[int, int] = (40, 80)) -> Sample:
    """A sample with boxes that differ from those of any other, as a training transform leaves it."""
    x1 = np.arange(count, dtype=np.float32) + image_id
    boxes = np.stack([x1, x1 / 2, x1 + 20, x1 / 2 + 10], axis=1)
    return Sample(
        np.full((*size, 3), image_id, np.uint8),
        image_id=image_id,
        path=f"{image_id}.jpg",
        boxes=Boxes.of(boxes, np.arange(count) + 10 * image_id, areas=np.full(count, 200.0)),
    )


def padded(samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch = collate(samples, [])
    assert batch.boxes is not None
    assert batch.boxes.present.tolist() == [True] * len(samples)
    return batch.boxes[:3]


def test_boxes_are_padded_and_relative_to_the_image() -> None:
    samples = [boxed(3, 1), boxed(0, 2), boxed(5, 3)]
    batch = collate(samples, ["x"])
    boxes, labels, kinds = padded(samples)
    assert batch.images.shape == (3, 3, 40, 80)
    assert batch.image_ids == [1, 2, 3]
    assert batch.skipped == ["x"]
    assert batch.truth == []
    assert batch.labels is None
    assert boxes.shape == (3, 16, 4)
    assert labels.shape == kinds.shape == (3, 16)
    assert (boxes.dtype, labels.dtype, kinds.dtype) == (torch.float32, torch.int64, torch.uint8)
    assert kinds.tolist() == [[BoxKind.OBJECT] * n + [BoxKind.PADDING] * (16 - n) for n in (3, 0, 5)]
    for i, sample in enumerate(samples):
        assert sample.boxes is not None
        n = len(sample.boxes)
        x1, y1, x2, y2 = sample.boxes.boxes.T
        np.testing.assert_allclose(boxes[i, :n], np.stack([x1 / 80, y1 / 40, x2 / 80, y2 / 40], 1), rtol=1e-6)
        assert labels[i, :n].tolist() == sample.boxes.labels.tolist()
        assert not boxes[i, n:].any()
        assert not labels[i, n:].any()


@pytest.mark.parametrize(
    ("counts", "width"), [([0], 0), ([0, 0], 0), ([1], 16), ([16, 2], 16), ([17], 32), ([3, 40], 48)]
)
def test_padding_is_to_a_few_widths(counts: list[int], width: int) -> None:
    boxes, labels, kinds = padded([boxed(count) for count in counts])
    assert boxes.shape == (len(counts), width, 4)
    assert labels.shape == kinds.shape == (len(counts), width)
    assert (kinds != BoxKind.PADDING).sum(1).tolist() == counts


def test_groups_and_difficult_objects_are_told_apart() -> None:
    plain = boxed(4)
    assert plain.boxes is not None
    flags = {"crowd": np.array([False, True, False, False]), "difficult": np.array([False, False, True, False])}
    sample = replace(plain, boxes=Boxes.of(plain.boxes.boxes, plain.boxes.labels, **flags))
    assert sample.boxes is not None
    for name, flag in flags.items():
        assert getattr(sample.boxes, name).tolist() == flag.tolist()
    _, labels, kinds = padded([sample, boxed(2)])
    wanted = [BoxKind.OBJECT, BoxKind.CROWD, BoxKind.DIFFICULT, BoxKind.OBJECT]
    assert kinds[0, :5].tolist() == [*wanted, BoxKind.PADDING]
    assert kinds[1, :3].tolist() == [BoxKind.OBJECT, BoxKind.OBJECT, BoxKind.PADDING]
    assert labels[0, :4].tolist() == [0, 1, 2, 3]
    assert padded([plain])[2][0, :5].tolist() == [BoxKind.OBJECT] * 4 + [BoxKind.PADDING]


def test_the_kinds_are_as_losses_count_on() -> None:
    assert {kind.name: int(kind) for kind in BoxKind} == {"PADDING": 0, "OBJECT": 1, "CROWD": 2, "DIFFICULT": 3}


def masked(image_id: int, label: int | None = None) -> Sample:
    sample = replace(boxed(0, image_id), boxes=None, label=label)
    return replace(sample, mask=np.full(sample.size, image_id, np.uint8))


def test_a_batch_may_mix_samples_with_different_targets() -> None:
    batch = collate([masked(1), replace(boxed(2, 2), label=1), replace(masked(3, 5), boxes=boxed(17, 3).boxes)], [])
    assert batch.labels is not None
    assert batch.labels.tolist() == [-1, 1, 5]
    assert batch.boxes is not None
    assert batch.boxes.present.tolist() == [False, True, True]
    assert (batch.boxes.kinds == BoxKind.OBJECT).sum(1).tolist() == [0, 2, 17]
    assert batch.masks is not None
    assert batch.has_mask is not None
    assert batch.masks.shape == (3, 40, 80)
    assert batch.masks[:, 0, 0].tolist() == [1, 255, 3]
    assert batch.has_mask.tolist() == [True, False, True]
    assert batch.lacking == {"label", "boxes", "mask"}


def test_a_target_that_no_sample_has_is_none() -> None:
    batch = collate([replace(boxed(2), boxes=None)] * 2, [])
    assert (batch.labels, batch.boxes, batch.masks, batch.has_mask) == (None, None, None, None)
    assert collate([boxed(1)], []).lacking == {"label", "mask"}


@pytest.mark.parametrize("evaluation", [False, True])
def test_a_mask_of_another_size_than_its_image_is_refused(evaluation: bool) -> None:
    sample = replace(masked(4), mask=np.zeros((40, 79), np.uint8))
    with pytest.raises(DataError, match=r"^4\.jpg: its mask is 79x40 pixels, but the image is 80x40$"):
        collate([masked(1), sample], [], evaluation=evaluation)


def test_arrays_of_boxes_belong_together() -> None:
    with pytest.raises(DataError, match=r"not \(2, 4\), \(3,\), \(3,\)$"):
        Boxes.of(np.zeros((2, 4), np.float32), np.zeros(3, np.int64))


def test_evaluation_keeps_the_truth_at_the_photos_size() -> None:
    photos = [boxed(3, 1, (90, 120)), boxed(0, 2, (64, 33))]
    transform = EvaluationTransform(Preprocessing(image_size=SIZE, resize="stretch"))
    batch = collate([transform(photo, 0) for photo in photos], [], evaluation=True)
    assert batch.images.shape == (2, 3, *SIZE)
    assert batch.boxes is None
    assert [truth.size for truth in batch.truth] == [(90, 120), (64, 33)]
    for truth, photo in zip(batch.truth, photos, strict=True):
        assert truth.image.size == 0  # it would travel twice
        assert (truth.image_id, truth.path) == (photo.image_id, photo.path)
        assert truth.boxes is photo.boxes
    assert photos[0].image.shape == (90, 120, 3)


class BoxSource(Source):
    """Images with 0, 1, 2, … boxes."""

    targets = frozenset({"boxes"})

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        extra = boxed(index, index)
        return replace(extra, image=sample.image, image_id=index, path=sample.path, size=sample.size)


@pytest.mark.parametrize("workers", [0, 2])
def test_boxes_from_workers(workers: int) -> None:
    """The same batches from any number of workers, each row's boxes those of its image."""
    preprocessing = Preprocessing(image_size=SIZE, resize="stretch")
    source = BoxSource()
    augmentation = DetectionAugmentation(preprocessing, crop=0.0, expand=1.0, color_jitter=0.2)
    data = DataModule(
        (source, augmentation), (source, EvaluationTransform(preprocessing)), seed=4, workers=workers, batch_size=4
    )
    direct = BatchDataset(source, augmentation, seed=4, on_error="raise")
    order = BatchSampler(12, 4, training=True, seed=4)
    order.set_epoch(1)
    for batch, key in zip(epoch_of(data, 1), order, strict=True):
        wanted = direct[key]
        assert batch.image_ids == wanted.image_ids == key.indices
        assert torch.equal(batch.images, wanted.images)
        assert batch.boxes is not None
        assert wanted.boxes is not None
        assert all(map(torch.equal, batch.boxes, wanted.boxes))
        assert (batch.boxes.kinds == BoxKind.OBJECT).sum(1).tolist() == key.indices  # as many boxes as the index says
        for index, labels in zip(key.indices, batch.boxes.labels, strict=True):
            assert labels[:index].tolist() == [10 * index + i for i in range(index)]
        assert batch.boxes.boxes.min() >= 0
        assert batch.boxes.boxes.max() <= 1 + 1e-6
    truths = [truth for batch in data.val_dataloader() for truth in batch.truth]
    assert [truth.image_id for truth in truths] == list(range(12))
    assert all(truth.size == (60, 70) and len(truth.boxes) == truth.image_id for truth in truths)  # type: ignore[arg-type]


def full_batch() -> Batch:
    return collate([replace(boxed(2, i), label=i, mask=np.full((40, 80), i, np.uint8)) for i in (1, 2)], [])


def tensors(batch: Batch) -> list[torch.Tensor]:
    found = [batch.images, batch.labels, batch.masks, batch.has_mask, *(batch.boxes or ())]
    assert len(found) == 8
    return [tensor for tensor in found if tensor is not None]


def test_moving_takes_all_tensors_along() -> None:
    shapes = [tensor.shape for tensor in tensors(full_batch())]
    moved = full_batch().to(torch.device("meta"))
    assert [tensor.device.type for tensor in tensors(moved)] == ["meta"] * 8
    assert [tensor.shape for tensor in tensors(moved)] == shapes
    assert moved.image_ids == [1, 2]
    assert collate([replace(boxed(1), boxes=None)], []).to(torch.device("meta")).boxes is None


def test_pinning_takes_all_tensors_along(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:  # the real one wants an accelerator
        pinned.append(tensor.clone())
        return pinned[-1]

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    wanted = full_batch()
    batch = full_batch().pin_memory()
    assert len(pinned) == 9
    for ours, theirs in zip(tensors(batch), tensors(wanted), strict=True):
        assert any(ours is tensor for tensor in pinned)
        assert torch.equal(ours, theirs)


def test_by_value_takes_all_tensors_along() -> None:
    batch = full_batch()
    batch.by_value = True
    copy = pickle.loads(pickle.dumps(batch))
    for ours, theirs in zip(tensors(copy), tensors(batch), strict=True):
        assert torch.equal(ours, theirs)
    assert copy.images.stride() == batch.images.stride()
