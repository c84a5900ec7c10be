"""One small data set of objects, laid out as COCO, VOC and YOLO."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NAMES = ("ant", "bee")
Layouts = Callable[[Path, int], dict[str, list[str]]]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _layouts(root: Path, count: int) -> dict[str, list[str]]:
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
            xml += f"<object><name>{NAMES[label]}</name><bndbox>{box}</bndbox></object>"
            if len(annotations) % 2:
                shares = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
            else:
                shares = tuple(value / (height if place % 2 else width) for place, value in enumerate(corners))
            yolo += " ".join([str(label), *(f"{share:.6f}" for share in shares)]) + "\n"
        for folder in ("coco/val", "voc/JPEGImages", "yolo/images/val"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{name}.png")
        images.append({"id": number, "file_name": f"{name}.png", "height": height, "width": width})
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        _write(root / f"voc/Annotations/{name}.xml", f"<annotation>{size}{xml}</annotation>")
        _write(root / f"yolo/labels/val/{name}.txt", yolo)
        ids.append(name)
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(NAMES)]
    whole = {"images": images, "annotations": annotations, "categories": categories}
    _write(root / "coco/annotations/instances_val.json", json.dumps(whole))
    _write(root / "voc/ImageSets/Main/val.txt", "\n".join(ids))
    _write(root / "yolo/data.yaml", "train: images/val\nval: images/val\nnames: [ant, bee]\n")
    return {
        "coco": ["dataset=coco", f"dataset.root={root / 'coco'}", "dataset.year=null"],
        "voc": ["dataset=voc", f"dataset.root={root / 'voc'}", "dataset.protocol=coco"],
        "yolo": ["dataset=yolo", f"dataset.root={root / 'yolo'}"],
    }


@pytest.fixture(scope="session")
def layouts() -> Layouts:
    """Writes so many images in three layouts; gives the arguments that name them."""
    return _layouts
