"""Several data sets as one: what a batch has, in which order, and whose labels they are."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from mnv2vision.data.batch import BatchDataset, collate
from mnv2vision.data.mixture import Labels, Mixture, Relabelled, counts_per_batch, unite
from mnv2vision.data.sample import Boxes, Sample, SampleSource
from mnv2vision.data.sampler import MixtureSampler
from mnv2vision.errors import ConfigError, DataError

BROKEN = 3


class Numbered:
    """Images that show a number; one may be unreadable."""

    names: tuple[str, ...] = ("a", "b")
    targets = frozenset({"label"})

    def __init__(self, length: int, first: int = 0, broken: int | None = None) -> None:
        self.length, self.first, self.broken = length, first, broken

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if index == self.broken:
            raise DataError(f"{index}.jpg: unreadable")
        return Sample(np.full((4, 4, 3), self.first + index, np.uint8), index, f"{index}.jpg", label=index % 2)


def mixture(*lengths: int, shares: list[float] | None = None) -> Mixture:
    sources: dict[str, SampleSource] = {
        f"part{number}": Numbered(length, 50 * number) for number, length in enumerate(lengths)
    }
    return Mixture(sources, shares)


def batches(source: Mixture, epoch: int = 0, **options: Any) -> list[Any]:
    sampler = MixtureSampler(source, options.pop("batch_size", 8), training=True, **options)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_samples_know_their_data_set() -> None:
    source = mixture(3, 2)
    assert len(source) == 5
    assert [(source[i].part, int(source[i].image[0, 0, 0])) for i in range(5)] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 50),
        (1, 51),
    ]


@pytest.mark.parametrize(
    ("shares", "size", "counts"),
    [
        ([1, 1], 8, [4, 4]),
        ([1000, 1], 8, [7, 1]),  # at least one of each
        ([3, 1], 8, [6, 2]),
        ([1, 1, 1], 8, [3, 3, 2]),
        ([1, 1000, 1], 3, [1, 1, 1]),
    ],
)
def test_images_of_a_batch(shares: list[float], size: int, counts: list[int]) -> None:
    assert sorted(counts_per_batch(shares, size, ["a", "b", "c"])) == sorted(counts)


def test_a_batch_too_small_for_the_data_sets() -> None:
    with pytest.raises(
        ConfigError, match=r"loader\.batch_size=2: each batch has images of all 3 data sets \(a, b, c\)"
    ):
        counts_per_batch([1, 1, 1], 2, ["a", "b", "c"])


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_batch_of_every_process_has_images_of_each(world_size: int) -> None:
    source = mixture(90, 7, 20, shares=[6, 1, 1])
    for rank in range(world_size):
        for key in batches(source, rank=rank, world_size=world_size):
            assert Counter(map(source.part, key.indices)) == {0: 6, 1: 1, 2: 1}


@pytest.mark.parametrize("world_size", [1, 2])
def test_each_data_set_goes_round_all_its_images(world_size: int) -> None:
    """Whatever an epoch is: after so many rounds, each image was there so often, and once in each round."""
    source = mixture(90, 7, shares=[6, 2])
    sampled = [
        pair
        for epoch in range(7)
        for rank in range(world_size)
        for key in batches(source, epoch, rank=rank, world_size=world_size)
        for pair in zip(key.indices, key.passes or [], strict=True)
    ]
    assert max(Counter(sampled).values()) == 1
    of_second = Counter(index for index, _ in sampled if source.part(index) == 1)
    assert max(of_second.values()) - min(of_second.values()) <= 1
    assert len(of_second) == 7


def test_the_order_depends_on_the_seed_and_the_step_alone() -> None:
    source = mixture(20, 9)
    whole = batches(source, 1)
    assert batches(source, 1) == whole
    assert batches(source, 1, seed=1) != whole
    assert batches(source, 2) != whole
    resumed = MixtureSampler(source, 8, training=True)
    resumed.go_on_at(1, 2)
    assert list(resumed) == whole[2:]


def test_an_image_that_comes_again_is_drawn_anew() -> None:
    """Its augmentation differs from that of the round before, within an epoch too."""
    source = mixture(40, 2, shares=[1, 1])
    seeds: list[tuple[int, int]] = []

    def transform(sample: Sample, seed: int) -> Sample:
        seeds.append((int(sample.image[0, 0, 0]), seed))
        return sample

    data = BatchDataset(source, transform, seed=0, on_error="raise")
    for key in batches(source):
        data[key]
    assert len(set(seeds)) == len(seeds)
    assert Counter(number for number, _ in seeds)[50] == 10


def test_evaluation_has_batches_of_one_data_set() -> None:
    source = mixture(9, 4)
    seen: list[int] = []
    for rank in range(2):
        sampler = MixtureSampler(source, 4, training=False, rank=rank, world_size=2)
        keys = list(sampler)
        assert len(sampler) == len(keys)
        for key in keys:
            assert len({source.part(index) for index in key.indices}) == 1
            seen += key.indices
    assert sorted(seen) == list(range(13))


def test_an_unreadable_image_is_replaced_by_one_of_its_data_set() -> None:
    sources: dict[str, SampleSource] = {"good": Numbered(5), "bad": Numbered(BROKEN + 1, 50, broken=BROKEN)}
    source = Mixture(sources)
    data = BatchDataset(source, lambda sample, _: sample, seed=0, on_error="skip")
    batch = data[batches(source)[0]._replace(indices=[5 + BROKEN, 0], passes=[0, 0])]
    assert batch.parts is not None
    assert batch.parts.tolist() == [1, 0]
    assert batch.images[0, 0, 0, 0] == 50
    assert batch.skipped == [f"{BROKEN}.jpg: unreadable"]


def test_labels_of_a_head() -> None:
    boxes = Boxes.of([(0, 0, 1, 1), (1, 1, 2, 2)], [1, 0])
    mask = np.array([[0, 1], [255, 1]], np.uint8)

    class One(Numbered):
        def __getitem__(self, index: int) -> Sample:
            return Sample(np.zeros((2, 2, 3), np.uint8), 0, "", label=1, boxes=boxes, mask=mask)

    sample = Relabelled(One(1), Labels([7, 8], [5, 6], [0, 4]), ())[0]
    assert sample.label == 8
    assert sample.boxes is not None
    assert sample.boxes.labels.tolist() == [6, 5]
    assert sample.mask is not None
    assert sample.mask.tolist() == [[0, 4], [255, 4]]


def test_classes_are_united_by_name() -> None:
    assert unite({"voc": ("cat", "dog"), "own": ("dog", "eel")}, "head") == ("cat", "dog", "eel")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"a": ("cat", "cat"), "b": ("dog",)}, "a has two classes named cat"),
        ({"a": ("cat",), "b": ("Cat ",)}, "a has a class 'cat', b has 'Cat ': if they are one, name them alike"),
    ],
)
def test_names_that_clash(names: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(DataError, match=f"head x: {message}"):
        unite(names, "head x")


def test_what_a_head_sees_of_a_batch() -> None:
    """Images of data sets that do not serve it have no labels, boxes and masks of its own."""
    image = np.zeros((4, 4, 3), np.uint8)
    boxes = Boxes.of([(0, 0, 2, 2)], [0])
    samples = [
        Sample(image, 0, "", label=1, boxes=boxes, mask=np.ones((4, 4), np.uint8), part=0),
        Sample(image, 1, "", label=0, boxes=boxes, mask=np.zeros((4, 4), np.uint8), part=1),
        Sample(image, 2, "", label=1, part=1),
    ]
    batch = collate(samples, [])
    unknown = torch.tensor([[False, False], [False, True]])
    seen = batch.of_head(torch.tensor([False, True]), unknown)
    assert seen.labels is not None
    assert seen.labels.tolist() == [-1, 0, 1]
    assert seen.has("boxes").tolist() == [False, True, False]
    assert seen.has("mask").tolist() == [False, True, False]
    assert seen.masks is not None
    assert seen.masks[0].unique().tolist() == [255]
    assert seen.unknown is not None
    assert seen.unknown.tolist() == [[False, False], [False, True], [False, True]]
    assert batch.labels is not None
    assert batch.labels.tolist() == [1, 0, 1]  # unchanged
