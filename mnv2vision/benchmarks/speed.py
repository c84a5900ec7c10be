"""Speed against torchvision, measured alternately in one run: ratios hold across machines and loads."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

import mnv2vision as mv
from mnv2vision.common.machine import processor
from mnv2vision.data.augment.classification import ClassificationAugmentation, EvaluationTransform
from mnv2vision.data.formats.imagenet import ImageNet
from mnv2vision.data.formats.shapes import Shapes
from mnv2vision.data.loader import DataModule
from mnv2vision.inference.predictor import Predictor
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.training.precision import best_precision


class Result(NamedTuple):
    """A comparison: `ours` and `peer` are median seconds; `ratio` is the median of the peer's time over ours."""

    what: str
    ours: float
    peer: float
    ratio: float


def compare(
    what: str, ours: Callable[[], object], peer: Callable[[], object], *, rounds: int, items: int = 1
) -> Result:
    """Time two functions alternately, after one warm-up call of each.

    Args:
        what: Name of the comparison.
        ours: This package's function.
        peer: The function to compare with.
        rounds: Timed calls of each.
        items: Images, or other items, per call; times are per item.
    """
    ours()
    peer()
    pairs = [(seconds(ours) / items, seconds(peer) / items) for _ in range(rounds)]
    mine, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    ratio = statistics.median(b / a for a, b in pairs)
    return Result(what, statistics.median(mine), statistics.median(theirs), ratio)


def seconds(function: Callable[[], object]) -> float:
    """Duration of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@torch.no_grad()
def settle(model: torch.nn.Module, size: int) -> None:
    """Give batch norms the statistics of a random batch, and switch to inference mode.

    With initial statistics, activations fade from layer to layer until they are denormal numbers, on which a CPU is a
    hundred times as slow.
    """
    norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    model.train()(torch.randn(4, 3, size, size))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def training_step(rounds: int = 9, batch_size: int = 32) -> Result:
    """A training step of MobileNetV2 1.0 at 224: our defaults for this CPU, against float32 in NCHW."""
    images, labels = torch.randn(batch_size, 3, 224, 224), torch.randint(0, 1000, (batch_size,))

    def stepper(model: torch.nn.Module, images: Tensor, bfloat16: bool) -> Callable[[], None]:
        optimizer = torch.optim.SGD(model.train().parameters(), 0.01, momentum=0.9, weight_decay=4e-5)

        def step() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = F.cross_entropy(model(images).float(), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()

        return step

    ours: Any = mv.create_model("classification").to(memory_format=torch.channels_last)
    bfloat16 = best_precision("cpu") == "bf16-mixed"
    return compare(
        f"training step, MobileNetV2 1.0, 224, batch {batch_size}",
        stepper(ours, images.to(memory_format=torch.channels_last), bfloat16),
        stepper(torchvision.models.mobilenet_v2(), images, False),
        rounds=rounds,
    )


def inference(batch_size: int, rounds: int) -> Result:
    """MobileNetV2 1.0 at 224 as prepared by `Predictor`, against torchvision's model in eager mode."""
    images = torch.randn(batch_size, 3, 224, 224)
    model, peer = mv.create_model("classification"), torchvision.models.mobilenet_v2()
    settle(model, 224)
    settle(peer, 224)
    predictor = Predictor(model, device="cpu")
    mine = images.to(memory_format=torch.channels_last)
    calls = max(1, 10 // batch_size)  # a single short call mostly measures cold caches

    def repeat(model: torch.nn.Module, images: Tensor) -> Callable[[], None]:
        def run() -> None:
            for _ in range(calls):
                model(images)

        return run

    what = f"inference, MobileNetV2 1.0, 224, batch {batch_size}"
    with torch.inference_mode():
        return compare(what, repeat(predictor.model, mine), repeat(peer, images), rounds=rounds, items=calls)


def input_pipeline(root: str, rounds: int = 5) -> Result:
    """Decoding, random crop, flip and batching in one worker, against torchvision's reference on Pillow."""
    source = ImageNet(root, "train")
    data = DataModule(
        (source, ClassificationAugmentation(Preprocessing())), None, batch_size=32, workers=1, on_error="raise"
    )
    ours = data.train_dataloader()
    reference = T.Compose(
        [
            T.RandomResizedCrop(224),
            T.RandomHorizontalFlip(),
            T.PILToTensor(),
            T.ConvertImageDtype(torch.float32),
            T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )

    def load(path: str | Path) -> Image.Image:
        with Image.open(path) as image:
            return image.convert("RGB")

    folder = ImageFolder(str(Path(root) / "train"), reference, loader=load)
    peer: DataLoader[Any] = DataLoader(folder, 32, shuffle=True, drop_last=True, num_workers=1, persistent_workers=True)
    images = len(source) // 32 * 32
    return compare(
        "input pipeline, one process, per image", lambda: list(ours), lambda: list(peer), rounds=rounds, items=images
    )


def epoch_gap(epochs: int = 5) -> float:
    """Seconds from an epoch's last batch to the first of the next, on the shapes; the median."""
    preprocessing = Preprocessing(image_size=(128, 128))
    data = DataModule(
        (Shapes("train", size=640, image_size=128), EvaluationTransform(preprocessing)), None, batch_size=32, workers=1
    )
    loader, gaps = data.train_dataloader(), []
    for _ in range(epochs + 1):
        start = time.perf_counter()
        iterator = iter(loader)
        next(iterator)
        gaps.append(time.perf_counter() - start)
        list(iterator)
    return statistics.median(gaps[1:])


def machine() -> str:
    """The CPU, threads and versions, in one line."""
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    return f"{processor()}, {torch.get_num_threads()} threads, {versions}"
