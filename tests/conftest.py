"""What all tests share: one thread, a home of their own, and where the data beside the repository is."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

Randomize = Callable[[nn.Module], None]
Layouts = Callable[..., dict[str, list[str]]]

ROOT = Path(__file__).parents[1]

# On tensors this small, threads spend their time waiting for one another: minutes, on a machine with other work.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNV2VISION_HOME", str(tmp_path / "mnv2vision_home"))
    monkeypatch.delenv("MNV2VISION_RUN_DIR", raising=False)  # a run without run_dir leaves it for its other processes


@pytest.fixture(scope="session")
def patience() -> float:
    """Seconds after which a test takes what it waits for to be stuck: a busy machine needs ten times as long."""
    return 900


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with official weights and data, which is no part of the repository."""
    folder = Path(os.environ.get("MNV2VISION_SHARED", ROOT / "../shared")).resolve()
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent (MNV2VISION_SHARED)")
    return folder


@torch.no_grad()
def _randomize(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)

    def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            uniform(layer.weight, 0.5, 1.5)
            uniform(layer.running_var, 0.5, 1.5)
            uniform(layer.bias, -0.5, 0.5)
            uniform(layer.running_mean, -0.5, 0.5)
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            # Uniform in +-sqrt(6 / fan_in) keeps the signal's scale through ReLU, depthwise layers included.
            bound = (6 / layer.weight[0].numel()) ** 0.5
            uniform(layer.weight, -bound, bound)
            if layer.bias is not None:
                uniform(layer.bias, -0.5, 0.5)


@pytest.fixture(scope="session")
def randomize() -> Randomize:
    """Give a module random weights and random running statistics, the same ones every time."""
    return _randomize


@pytest.fixture(scope="session")
def exported() -> Callable[..., Path]:
    """Writes a model's folder, without the proof that `export` measures."""

    def exported(
        model: nn.Module,
        folder: Path,
        *,
        name: str = "onnx",
        layout: str = "NHWC",
        post: str = "raw",
        calibration: tuple[NDArray[np.uint8], ...] = (),
    ) -> Path:
        from mnv2vision.deploy.export import Target, write
        from mnv2vision.deploy.graph import ExportGraph
        from mnv2vision.deploy.predict_script import predict_script
        from mnv2vision.deploy.written import ExportOptions

        folder.mkdir(parents=True)
        graph = ExportGraph(model, layout=layout, post=post)  # type: ignore[arg-type]
        precision = "int8" if calibration else "float"
        options = ExportOptions(precision, calibration=calibration)  # type: ignore[arg-type]
        bundle = write(graph, folder, Target(name, precision), options, provenance={})
        if (script := predict_script(bundle)) is not None:
            (folder / "predict.py").write_text(script, encoding="utf-8")
        return folder

    return exported


# ---- one small data set of objects, laid out as COCO, VOC and YOLO ----

_NAMES = ("ant", "bee")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _layouts(root: Path, count: int, split: str = "val") -> dict[str, list[str]]:
    rng = np.random.default_rng(7)
    images, annotations, ids = [], list[dict[str, object]](), []
    for number in range(count):
        height, width = (int(side) for side in rng.integers(70, 140, 2))
        pixels = rng.integers(0, 60, (height, width, 3), np.uint8)
        name, xml, yolo = f"{number:03}", "", ""
        for _ in range(int(rng.integers(0, 4)) if number else 2):
            side = rng.integers(8, 60, 2) if len(annotations) % 5 else (32, 32)  # COCO's border of small objects
            x, y = int(rng.integers(0, width - side[0])), int(rng.integers(0, height - side[1]))
            w, h, label = int(side[0]), int(side[1]), int(rng.integers(2))
            pixels[y : y + h, x : x + w, label] = 250
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "area": w * h}
            annotations.append({**entry, "bbox": [x, y, w, h], "segmentation": [corners]})
            sides = zip(("xmin", "ymin", "xmax", "ymax"), (x + 1, y + 1, x + w, y + h), strict=True)
            box = "".join(f"<{key}>{value}</{key}>" for key, value in sides)
            xml += f"<object><name>{_NAMES[label]}</name><bndbox>{box}</bndbox></object>"
            if len(annotations) % 2:
                shares = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
            else:
                shares = tuple(value / (height if place % 2 else width) for place, value in enumerate(corners))
            yolo += " ".join([str(label), *(f"{share:.6f}" for share in shares)]) + "\n"
        for folder in (f"coco/{split}", "voc/JPEGImages", f"yolo/images/{split}"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{name}.png")
        images.append({"id": number, "file_name": f"{name}.png", "height": height, "width": width})
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        _write(root / f"voc/Annotations/{name}.xml", f"<annotation>{size}{xml}</annotation>")
        _write(root / f"yolo/labels/{split}/{name}.txt", yolo)
        ids.append(name)
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(_NAMES)]
    whole = {"images": images, "annotations": annotations, "categories": categories}
    _write(root / f"coco/annotations/instances_{split}.json", json.dumps(whole))
    _write(root / f"voc/ImageSets/Main/{split}.txt", "\n".join(ids))
    _write(root / "yolo/data.yaml", f"train: images/{split}\nval: images/{split}\nnames: [ant, bee]\n")
    return {
        "coco": ["dataset=coco", f"dataset.root={root / 'coco'}", "dataset.year=null"],
        "voc": ["dataset=voc", f"dataset.root={root / 'voc'}", "dataset.protocol=coco"],
        "yolo": ["dataset=yolo", f"dataset.root={root / 'yolo'}"],
    }


@pytest.fixture(scope="session")
def layouts() -> Layouts:
    """Writes so many images in three layouts; gives the arguments that name them."""
    return _layouts
