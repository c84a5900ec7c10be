"""The loss against plain loops over pixels, and what counts for nothing."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mnv2vision.segmentation.loss import segmentation_loss

WEIGHTS = (0.2, 3.0, 1.0, 0.5)


def random_batch(size: tuple[int, int] = (7, 9), ignored: float = 0.3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of the masks' size and masks, some pixels of which do not count."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 2, (2, 4, *size))).float()
    masks = rng.integers(0, 4, (2, *size))
    masks[rng.random(masks.shape) < ignored] = 255
    return logits, torch.from_numpy(masks.astype(np.uint8))


def pixel_losses(logits: Tensor, masks: Tensor, ignore_index: int = 255) -> list[tuple[float, int]]:
    """Loss and label of each pixel that counts."""
    losses = []
    for scores, mask in zip(logits.double().tolist(), masks.tolist(), strict=True):
        for y, row in enumerate(mask):
            for x, label in enumerate(row):
                if label != ignore_index:
                    pixel = [plane[y][x] for plane in scores]
                    losses.append((math.log(sum(math.exp(value) for value in pixel)) - pixel[label], label))
    return losses


@pytest.mark.parametrize("ignored", [0.0, 0.3, 0.9])
def test_mean_of_the_pixels_that_count(ignored: float) -> None:
    logits, masks = random_batch(ignored=ignored)
    losses = [loss for loss, _ in pixel_losses(logits, masks)]
    assert segmentation_loss(logits, masks).item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.int64])
def test_kinds_of_masks(kind: torch.dtype) -> None:
    logits, masks = random_batch()
    wanted = F.cross_entropy(logits, masks.long(), ignore_index=255)
    torch.testing.assert_close(segmentation_loss(logits, masks.to(kind)), wanted)


def test_ignored_pixels_have_no_gradient_and_no_say() -> None:
    logits, masks = random_batch()
    other = logits.clone()
    other.movedim(1, -1)[masks == 255] = 1000.0
    assert torch.equal(segmentation_loss(logits, masks), segmentation_loss(other, masks))
    logits.requires_grad_()
    segmentation_loss(logits, masks).backward()
    assert logits.grad is not None
    moved = logits.grad.abs().sum(1) > 0
    assert torch.equal(moved, masks != 255)


def test_another_ignore_index() -> None:
    logits, masks = random_batch(ignored=0)
    losses = [loss for loss, _ in pixel_losses(logits, masks, ignore_index=2)]
    assert 0 < len(losses) < masks.numel()
    ours = segmentation_loss(logits, masks, ignore_index=2).item()
    assert ours == pytest.approx(sum(losses) / len(losses), rel=1e-5)


@pytest.mark.parametrize("hardest", [1.0, 0.25])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_all_ignored_is_exactly_nothing(hardest: float, weights: tuple[float, ...] | None) -> None:
    logits = (100 * random_batch()[0]).requires_grad_()
    masks = torch.full((2, 7, 9), 255, dtype=torch.uint8)
    loss = segmentation_loss(logits, masks, hardest=hardest, class_weights=weights)
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad.any()  # and none is NaN, which would be true


def test_one_image_of_two_ignored() -> None:
    logits, masks = random_batch()
    masks[1] = 255
    torch.testing.assert_close(segmentation_loss(logits, masks), segmentation_loss(logits[:1], masks[:1]))


def test_class_weights() -> None:
    logits, masks = random_batch()
    ours = segmentation_loss(logits, masks, class_weights=WEIGHTS)
    torch.testing.assert_close(ours, F.cross_entropy(logits, masks.long(), torch.tensor(WEIGHTS), ignore_index=255))
    losses = pixel_losses(logits, masks)
    total = sum(WEIGHTS[label] for _, label in losses)
    assert ours.item() == pytest.approx(sum(loss * WEIGHTS[label] for loss, label in losses) / total, rel=1e-5)
    assert ours.item() != pytest.approx(segmentation_loss(logits, masks).item(), rel=1e-3)


def test_classes_of_no_weight() -> None:
    logits, masks = random_batch()
    logits.requires_grad_()
    masks[masks != 255] = 1
    loss = segmentation_loss(logits, masks, class_weights=(1, 0, 1, 1))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("hardest", [0.5, 0.1, 1e-6])
def test_hardest(hardest: float) -> None:
    logits, masks = random_batch()
    losses = sorted((loss for loss, _ in pixel_losses(logits, masks)), reverse=True)
    kept = losses[: max(1, int(hardest * len(losses)))]
    assert segmentation_loss(logits, masks, hardest=hardest).item() == pytest.approx(sum(kept) / len(kept), rel=1e-5)


def test_hardest_moves_the_hardest_alone() -> None:
    logits, masks = random_batch()
    logits.requires_grad_()
    segmentation_loss(logits, masks, hardest=0.2).backward()
    assert logits.grad is not None
    moved = logits.grad.abs().sum(1) > 0
    losses = F.cross_entropy(logits.detach(), masks.long(), ignore_index=255, reduction="none")
    assert moved.sum() == int(0.2 * (masks != 255).sum())
    assert losses[moved].min() >= losses[~moved].max()


def test_bfloat16() -> None:
    logits, masks = random_batch()
    low = logits.bfloat16().requires_grad_()
    loss = segmentation_loss(low, masks, class_weights=WEIGHTS, hardest=0.5)
    assert loss.dtype == torch.float32
    # The logits are rounded to bfloat16, and nothing after them is.
    wanted = segmentation_loss(logits.bfloat16().float(), masks, class_weights=WEIGHTS, hardest=0.5)
    assert torch.equal(loss, wanted)
    loss.backward()
    assert low.grad is not None
    assert low.grad.dtype == torch.bfloat16
    assert low.grad.isfinite().all()


def test_large_logits() -> None:
    logits = torch.tensor([[1e4, -1e4]]).view(1, 2, 1, 1)
    masks = torch.tensor([[[1]]], dtype=torch.uint8)
    assert segmentation_loss(logits, masks).item() == pytest.approx(2e4)
