"""Objects found on photos, counted and as labels that people correct: in COCO's, YOLO's and VOC's layout."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Literal, NamedTuple
from xml.etree import ElementTree as ET

from mnv2vision.common.atomic import write_text
from mnv2vision.errors import ConfigError
from mnv2vision.predictions.detection import Detection

Layout = Literal["coco", "yolo", "voc"]


class Found(NamedTuple):
    """A photo's objects.

    Attributes:
        height: Of the photo.
        width: Of the photo.
        objects: On it.
    """

    height: int
    width: int
    objects: Detection


def write_counts(found: Mapping[str, Found], names: tuple[str, ...], path: Path) -> None:
    """Write how many objects there are: a row for each photo, a column for each class.

    Args:
        found: By the photo's name.
        names: Of the classes.
        path: The CSV file.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["image", *names])
    for photo, (_, _, objects) in found.items():
        counts = objects.counts()
        writer.writerow([_text(photo), *(counts.get(name, 0) for name in names)])
    write_text(path, table.getvalue())


def check_layout(layout: str, photos: Iterable[str]) -> None:
    """Raise ConfigError for photos that differ in their suffix alone, where each needs a file of its own."""
    stems: dict[str, str] = {}
    for photo in photos if layout != "coco" else ():
        other = stems.setdefault(str(PurePath(photo).with_suffix("")), photo)
        if other != photo:
            raise ConfigError(f"output_format={layout}: {other} and {photo} would have the same file; rename one")


def write_labels(layout: Layout, found: Mapping[str, Found], names: tuple[str, ...], folder: Path) -> None:
    """Write labels.

    Args:
        layout: "coco": `labels.json`, with scores. "yolo": `labels/<photo>.txt` and the classes in `data.yaml`. "voc":
            `Annotations/<photo>.xml`.
        found: By the photo's path below the folder of all photos; see `check_layout`.
        names: Of the classes.
        folder: To write to.
    """
    {"coco": _coco, "yolo": _yolo, "voc": _voc}[layout](found, names, folder)


def _coco(found: Mapping[str, Found], names: tuple[str, ...], folder: Path) -> None:
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, (photo, (height, width, objects)) in enumerate(found.items(), 1):
        images.append({"id": number, "file_name": _text(photo), "width": width, "height": height})
        for box, score, label in zip(objects.boxes, objects.scores, objects.labels, strict=True):
            x1, y1, x2, y2 = (float(side) for side in box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(label) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "score": float(score),
                }
            )
    categories = [{"id": label, "name": name} for label, name in enumerate(names, 1)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    write_text(folder / "labels.json", json.dumps(content) + "\n")


def _yolo(found: Mapping[str, Found], names: tuple[str, ...], folder: Path) -> None:
    for photo, (height, width, objects) in found.items():
        lines = []
        for (x1, y1, x2, y2), label in zip(objects.boxes.tolist(), objects.labels.tolist(), strict=True):
            shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            lines.append(f"{label} " + " ".join(f"{share:.8f}" for share in shares) + "\n")
        write_text(folder / "labels" / PurePath(photo).with_suffix(".txt"), "".join(lines))
    write_text(folder / "data.yaml", f"names: {json.dumps(list(names), ensure_ascii=False)}\n")


def _voc(found: Mapping[str, Found], names: tuple[str, ...], folder: Path) -> None:
    for photo, (height, width, objects) in found.items():
        root = ET.Element("annotation")
        ET.SubElement(root, "filename").text = PurePath(_text(photo)).name
        size = ET.SubElement(root, "size")
        for key, value in (("width", width), ("height", height), ("depth", 3)):
            ET.SubElement(size, key).text = str(value)
        for (x1, y1, x2, y2), label in zip(objects.boxes.tolist(), objects.labels.tolist(), strict=True):
            # VOC counts pixels from 1, and the last one belongs to the box, which has one at least.
            left, top = min(round(x1) + 1, width), min(round(y1) + 1, height)
            right, bottom = max(round(x2), left), max(round(y2), top)
            told = ET.SubElement(root, "object")
            ET.SubElement(told, "name").text = names[label]
            ET.SubElement(told, "difficult").text = "0"
            corners = ET.SubElement(told, "bndbox")
            for key, value in (("xmin", left), ("ymin", top), ("xmax", right), ("ymax", bottom)):
                ET.SubElement(corners, key).text = str(value)
        ET.indent(root)
        path = folder / "Annotations" / PurePath(photo).with_suffix(".xml")
        write_text(path, ET.tostring(root, encoding="unicode") + "\n")


def _text(name: str) -> str:
    """A file's name, with bytes that are no UTF-8 escaped."""
    return name.encode("utf-8", "backslashreplace").decode()
