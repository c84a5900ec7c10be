"""Peak activation memory of inference, plain and split, by PyTorch's allocator (paper, section 5.1)."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import mnv2vision as mv
from mnv2vision.backbones.split import split_inference
from mnv2vision.benchmarks.speed import compare, settle


class Use(NamedTuple):
    """Memory and time of inference for one image.

    Attributes:
        splits: Parts of a block; 0 for the plain model with batch norm folded.
        measured: Peak bytes by the allocator, in float32, including the image.
        computed: Peak bytes by `mv.complexity`.
        time: Relative to the plain model; medians of alternating calls.
    """

    splits: int
    measured: int
    computed: int
    time: float


@torch.inference_mode()
def peak_bytes(model: nn.Module, images: Tensor) -> int:
    """Peak bytes during inference, including `images` but not the model's weights.

    All memory that PyTorch allocates on the CPU counts, including oneDNN's copies for layout changes.

    Args:
        model: In inference mode, on the CPU.
        images: (N, 3, H, W), normalised.
    """
    model(images)  # memory kept since the first call is not an activation
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        model(images)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        record.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    # The profiler counts from 0 when it starts.
    return images.nbytes + max(int(event["args"]["Total Allocated"]) for event in events if event["name"] == "[memory]")


def measure(splits: Sequence[int] = (1, 2, 3, 6), *, image_size: int = 224, rounds: int = 15) -> list[Use]:
    """Measure MobileNetV2 1.0, plain and split, at batch 1 in channels-last layout, which oneDNN does not change.

    Args:
        splits: See `split_inference`.
        image_size: Side of the image in pixels.
        rounds: Timed calls of each model, alternating.
    """
    model = mv.create_model("classification")
    settle(model, image_size)
    images = torch.randn(1, 3, image_size, image_size).to(memory_format=torch.channels_last)

    def prepare(model: nn.Module) -> nn.Module:
        return model.to(memory_format=torch.channels_last)

    plain = prepare(mv.fold_batch_norm(model))

    def use(count: int) -> Use:
        other = prepare(split_inference(model, splits=count)) if count else plain
        with torch.inference_mode():
            time = compare("", lambda: plain(images), lambda: other(images), rounds=rounds).ratio if count else 1.0
        computed = mv.complexity(other, (image_size, image_size)).peak_activation_bytes
        return Use(count, peak_bytes(other, images), computed, time)

    return [use(count) for count in (0, *splits)]


def table(uses: Sequence[Use]) -> list[str]:
    """Lines of a Markdown table; 1 kB is 1000 bytes."""
    lines = ["| | measured | computed | relative to plain | time |", "|---|---|---|---|---|"]
    for use in uses:
        name = f"splits={use.splits}" if use.splits else "plain"
        share = use.measured / uses[0].measured
        lines.append(
            f"| {name} | {use.measured / 1e3:.0f} kB | {use.computed / 1e3:.0f} kB | {share:.2f} | {use.time:.2f} |"
        )
    return lines
