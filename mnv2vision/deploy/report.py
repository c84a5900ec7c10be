"""What is measured of an exported file, as data and in words."""

import json
import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnv2vision.common.atomic import write_text
from mnv2vision.common.machine import processor
from mnv2vision.deploy.bootstrap import CONFIDENCE, RESAMPLES
from mnv2vision.deploy.parity import Difference
from mnv2vision.deploy.timing import LARGE_BATCH, Timing
from mnv2vision.inference.bundle import Bundle
from mnv2vision.inference.runtimes.base import FORMATS

AGREES_ON = {
    "classification": "the best class",
    "detection": "objects of a score of 0.3 or more, matched at an IoU of 0.9",
    "segmentation": "pixels",
}


@dataclass(frozen=True)
class Compared:
    """A metric of the model and of the file on the same images, in 0..1; NaN where it is not defined.

    Attributes:
        model: Of the model.
        file: Of the file.
        low: Of the interval of file less model.
        high: Likewise.
    """

    model: float
    file: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """File less model."""
        return self.file - self.model


@dataclass(frozen=True)
class HeadProof:
    """What is measured of a head.

    Attributes:
        task: Of the head.
        photos: What it is measured on, in words.
        outputs: Differences of its raw outputs; empty for finished answers.
        agreement: Share of its answers that are the model's, see `AGREES_ON`; NaN where there are none.
        metrics: By name; empty without annotated images.
        main: The metric that `allow_drop` is about; empty without.
    """

    task: str
    photos: str
    outputs: Mapping[str, Difference]
    agreement: float
    metrics: Mapping[str, Compared]
    main: str = ""

    @property
    def drop(self) -> float:
        """Points of the main metric that the file loses; 0 where there is none."""
        lost = -100 * self.metrics[self.main].difference if self.main else 0.0
        return 0.0 if math.isnan(lost) else lost

    def to_dict(self) -> dict[str, object]:
        """Plain data, None for what is not defined."""
        return {
            "task": self.task,
            "photos": self.photos,
            "outputs": {name: vars(output) for name, output in self.outputs.items()},
            "agreement": _known(self.agreement),
            "main_metric": self.main or None,
            "metrics": {
                name: {
                    "model": _known(metric.model),
                    "file": _known(metric.file),
                    "difference": _known(metric.difference),
                    "interval": [_known(metric.low), _known(metric.high)],
                }
                for name, metric in self.metrics.items()
            },
        }


@dataclass(frozen=True)
class Proof:
    """What is measured of a file.

    Attributes:
        heads: By name; empty where the file cannot run.
        size: Bytes of the model's files.
        timing: None where the file cannot run.
        remarks: What is to be said beside, in a line each.
    """

    heads: Mapping[str, HeadProof]
    size: int
    timing: Timing | None
    remarks: tuple[str, ...] = ()

    @property
    def drop(self) -> float:
        """Points that the head loses that loses most."""
        return max((head.drop for head in self.heads.values()), default=0.0)

    def to_dict(self) -> dict[str, object]:
        """Plain data, of `report.json` and `Bundle.report`."""
        return {
            "heads": {name: head.to_dict() for name, head in self.heads.items()},
            "interval": f"{CONFIDENCE:.0%} of {RESAMPLES} paired bootstrap resamples of the images, file less model",
            "size_mb": self.size / 1e6,
            "speed": None if self.timing is None else speed(self.timing),
            "processor": processor(),
            "remarks": list(self.remarks),
        }


def speed(timing: Timing) -> dict[str, float]:
    """A process's measurements in figures."""
    return {
        "batch_1_p50_ms": float(np.quantile(timing.single, 0.5)) * 1e3,
        "batch_1_p95_ms": float(np.quantile(timing.single, 0.95)) * 1e3,
        f"batch_{LARGE_BATCH}_median_ms": statistics.median(timing.batch) * 1e3,
        "peak_memory_mb": timing.peak_memory / 1e6,
        "threads": timing.threads,
    }


def size_of(path: Path) -> int:
    """Bytes of a file, or of a folder's files."""
    return sum(item.stat().st_size for item in (path.rglob("*") if path.is_dir() else [path]) if item.is_file())


def write_report(folder: Path, bundle: Bundle, proof: Proof) -> None:
    """Write `report.json` and `report.md`."""
    write_text(folder / "report.json", json.dumps(proof.to_dict(), indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "report.md", "\n".join(_page(bundle, proof)) + "\n")


def _page(bundle: Bundle, proof: Proof) -> Iterator[str]:
    yield f"# {bundle.format}, {bundle.precision}"
    yield ""
    yield f"`{bundle.file}`, {proof.size / 1e6:.2f} MB, against the model it was exported from, in PyTorch."
    yield from (f"\n**{remark}**" for remark in proof.remarks)
    for name, head in proof.heads.items():
        yield from _head(name, head)
    if bundle.quantisation:
        yield "\n## How it was quantised\n"
        for key, value in bundle.quantisation.items():
            if isinstance(value, list | tuple):
                value = f"{len(value)} (listed in model.json)" if len(value) > 8 else ", ".join(map(str, value))
            yield f"- {key.replace('_', ' ')}: {value or 'none'}"
    if proof.timing is not None:
        yield from _speed(bundle, proof.timing)


def _head(name: str, head: HeadProof) -> Iterator[str]:
    yield f"\n## {name}, on {head.photos}\n"
    agreement = "there are none" if math.isnan(head.agreement) else f"{head.agreement:.2%}"
    yield f"Agreement on {AGREES_ON[head.task]}: {agreement}."
    if head.outputs:
        yield "\n| raw output | its range | largest difference | mean difference |"
        yield "|---|---|---|---|"
    for output, difference in head.outputs.items():
        yield (
            f"| {output} | {difference.range:.4g} | {difference.largest:.2e} of the range"
            f" | {difference.mean:.2e} of the range |"
        )
    if not head.metrics:
        reason = "no annotated images were given" if head.outputs else "evaluation takes post=raw"
        yield f"\nAccuracy was not measured: {reason}."
        return
    yield f"\n| metric | model | file | difference | {CONFIDENCE:.0%} interval |"
    yield "|---|---|---|---|---|"
    for metric, compared in head.metrics.items():
        shown = f"**{metric}**" if metric == head.main else metric
        if math.isnan(compared.difference):
            yield f"| {shown} | n/a | n/a | | |"
            continue
        yield (
            f"| {shown} | {compared.model:.4f} | {compared.file:.4f} | {_signed(compared.difference)}"
            f" | {_signed(compared.low)} to {_signed(compared.high)} |"
        )
    yield (
        f"\nThe interval is that of the difference over {RESAMPLES} resamples of the images (paired bootstrap):"
        " where it holds 0, these images do not tell the two apart."
    )


def _speed(bundle: Bundle, timing: Timing) -> Iterator[str]:
    figures = speed(timing)
    yield "\n## Speed and memory\n"
    yield f"{processor()}, {timing.threads} threads, {FORMATS[bundle.format].runs_with[1]}.\n"
    yield "| one image, p50 | one image, p95 | 32 images, median | peak memory |"
    yield "|---|---|---|---|"
    yield (
        f"| {figures['batch_1_p50_ms']:.2f} ms | {figures['batch_1_p95_ms']:.2f} ms"
        f" | {figures[f'batch_{LARGE_BATCH}_median_ms']:.1f} ms | {figures['peak_memory_mb']:.0f} MB |"
    )
    yield "\nPeak memory is that of a whole process with one image: Python, the runtime and the model."


def _signed(value: float) -> str:
    return f"{value:+.4f}" if round(value, 4) else "0"


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
