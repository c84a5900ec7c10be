"""The published weights that can be loaded by name. Metrics are those stated by the publishers."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.weights.digests import DIGESTS
from mnv2vision.weights.entry import NO_HASH, Entry
from mnv2vision.weights.importers.timm_models import MODELS as TIMM_MODELS

IMAGENET, COCO, VOC = "ImageNet, 1000", "COCO, 80", "VOC, 20 and background"

MODULES = "same names and outputs at random weights; this file itself was not available"
LAYOUT = "same names and outputs at random weights in the published layout; this file itself was not available"
ON_THE_HUB = "on the hub"

_TORCHVISION = (
    # architecture-tag, torchvision's name, top-1, top-5
    ("mobilenet_v2-imagenet1k_v1", "MobileNet_V2_Weights.IMAGENET1K_V1", 71.878, 90.286),
    ("mobilenet_v2-imagenet1k_v2", "MobileNet_V2_Weights.IMAGENET1K_V2", 72.154, 90.822),
    ("mobilenet_v3_large-imagenet1k_v1", "MobileNet_V3_Large_Weights.IMAGENET1K_V1", 74.042, 91.340),
    ("mobilenet_v3_large-imagenet1k_v2", "MobileNet_V3_Large_Weights.IMAGENET1K_V2", 75.274, 92.566),
    ("mobilenet_v3_small-imagenet1k_v1", "MobileNet_V3_Small_Weights.IMAGENET1K_V1", 67.668, 87.402),
)

_TIMM: tuple[tuple[str, str, dict[str, float]], ...] = (
    ("mobilenetv2_050", "lamb_in1k", {}),
    ("mobilenetv2_100", "ra_in1k", {"top1": 72.95, "top5": 91.0}),
    ("mobilenetv2_110d", "ra_in1k", {"top1": 75.05, "top5": 92.19}),
    ("mobilenetv2_120d", "ra_in1k", {"top1": 77.28, "top5": 93.51}),
    ("mobilenetv2_140", "ra_in1k", {"top1": 76.51, "top5": 93.0}),
    ("mobilenetv3_large_100", "ra_in1k", {}),
    ("mobilenetv3_small_050", "lamb_in1k", {}),
    ("mobilenetv3_small_075", "lamb_in1k", {}),
    ("mobilenetv3_small_100", "lamb_in1k", {}),
    ("tf_mobilenetv3_large_075", "in1k", {}),
    ("tf_mobilenetv3_large_100", "in1k", {}),
    ("tf_mobilenetv3_large_minimal_100", "in1k", {}),
    ("tf_mobilenetv3_small_075", "in1k", {}),
    ("tf_mobilenetv3_small_100", "in1k", {}),
    ("tf_mobilenetv3_small_minimal_100", "in1k", {}),
)

_Rows = dict[str, tuple[tuple[int, float, float], ...]]
_TF_V2: _Rows = {  # width: (input size, top-1, top-5), TF research/slim/nets/mobilenet/README.md
    "1.4": ((224, 75.0, 92.5),),
    "1.3": ((224, 74.4, 92.1),),
    "1.0": ((224, 71.8, 91.0), (192, 70.7, 90.1), (160, 68.8, 89.0), (128, 65.3, 86.9), (96, 60.3, 83.2)),
    "0.75": ((224, 69.8, 89.6), (192, 68.7, 88.9), (160, 66.4, 87.3), (128, 63.2, 85.3), (96, 58.8, 81.6)),
    "0.5": ((224, 65.4, 86.4), (192, 63.9, 85.4), (160, 61.0, 83.2), (128, 57.7, 80.8), (96, 51.2, 75.8)),
    "0.35": ((224, 60.3, 82.9), (192, 58.2, 81.2), (160, 55.7, 79.1), (128, 50.8, 75.0), (96, 45.5, 70.4)),
}
_TF_V1: _Rows = {  # TF research/slim/nets/mobilenet_v1.md
    "1.0": ((224, 70.9, 89.9), (192, 70.0, 89.2), (160, 68.0, 87.7), (128, 65.2, 85.8)),
    "0.75": ((224, 68.4, 88.2), (192, 67.2, 87.3), (160, 65.3, 86.0), (128, 62.1, 83.9)),
    "0.5": ((224, 63.3, 84.9), (192, 61.7, 83.6), (160, 59.1, 81.9), (128, 56.3, 79.4)),
    "0.25": ((224, 49.8, 74.2), (192, 47.7, 72.3), (160, 45.5, 70.3), (128, 41.5, 66.3)),
}
_TF_V3 = (
    ("large", "v3-large_224_1.0", "1.0", 75.2),
    ("large", "v3-large_224_0.75", "0.75", 73.3),
    ("large_minimalistic", "v3-large-minimalistic_224_1.0", "1.0", 72.3),
    ("small", "v3-small_224_1.0", "1.0", 67.5),
    ("small", "v3-small_224_0.75", "0.75", 65.4),
    ("small_minimalistic", "v3-small-minimalistic_224_1.0", "1.0", 61.9),
)
_TF_DETECTION = (  # TF research/object_detection/g3doc/tf1_detection_zoo.md
    ("ssdlite_mobilenet_v2-coco", "ssdlite_mobilenet_v2_coco_2018_05_09", 22),
    ("ssd_mobilenet_v2-coco", "ssd_mobilenet_v2_coco_2018_03_29", 22),
    ("ssd_mobilenet_v1-coco", "ssd_mobilenet_v1_coco_2018_01_28", 21),
)
_TF_DEEPLAB = (  # TF research/deeplab/g3doc/model_zoo.md: name, archive, output stride, mIoU, on what
    ("mobilenet_v2_dm05-coco_voc_trainaug", "deeplabv3_mnv2_dm05_pascal_trainaug_2018_10_01", 16, 70.19, "val"),
    ("mobilenet_v2_dm05-coco_voc_trainval", "deeplabv3_mnv2_dm05_pascal_trainval_2018_10_01", 8, 71.83, "test"),
    ("mobilenet_v2-coco_voc_trainaug", "deeplabv3_mnv2_pascal_train_aug_2018_01_29", 16, 75.32, "val"),
    ("mobilenet_v2-coco_voc_trainval", "deeplabv3_mnv2_pascal_trainval_2018_01_29", 8, 80.25, "test, scales and flips"),
)
_GOOGLE = ("mobilenet_v2_1.4_224", "mobilenet_v2_1.0_224", "mobilenet_v2_0.75_160", "mobilenet_v2_0.35_96")
_PADDLE = (  # PaddleClas, table of mobile networks
    ("x0_25", "MobileNetV2_x0_25", 53.21, 76.52),
    ("x0_5", "MobileNetV2_x0_5", 65.03, 85.72),
    ("x0_75", "MobileNetV2_x0_75", 69.83, 89.01),
    ("x1_0", "MobileNetV2", 72.15, 90.65),
    ("x1_5", "MobileNetV2_x1_5", 74.12, 91.67),
    ("x2_0", "MobileNetV2_x2_0", 75.23, 92.58),
    ("x1_0_ssld", "MobileNetV2_ssld", 76.74, 93.39),
)
_D_LI14 = (  # its README: tag, file, input size, top-1, top-5
    ("1.0_224", "mobilenetv2_1.0-0c6065bc", 224, 72.192, 90.534),
    ("0.75_224", "mobilenetv2_0.75-dace9791", 224, 69.952, 88.986),
    ("0.5_224", "mobilenetv2_0.5-eaa6f9ad", 224, 64.592, 85.392),
    ("0.35_224", "mobilenetv2_0.35-b2e15951", 224, 60.092, 82.172),
    ("0.25_224", "mobilenetv2_0.25-b61d2159", 224, 52.352, 75.932),
    ("0.1_224", "mobilenetv2_0.1-7d1d638a", 224, 34.896, 56.564),
    ("1.0_192", "mobilenetv2_192x192-e423d99e", 192, 71.076, 89.760),
    ("1.0_160", "mobilenetv2_160x160-64dc7fa1", 160, 69.504, 88.848),
    ("1.0_128", "mobilenetv2_128x128-fd66a69d", 128, 66.740, 86.952),
    ("1.0_96", "mobilenetv2_96x96-ff0e83d8", 96, 62.696, 84.046),
)

_APACHE = "Apache-2.0"
_CHECKPOINT = "*.ckpt*.index"


def _digest(location: str) -> dict[str, Any]:
    """What is known of the file's SHA-256, as fields of an entry."""
    if location.startswith("hf://"):
        return {"digest_source": ON_THE_HUB}
    digest, source = DIGESTS.get(location.rpartition("/")[2], ("", NO_HASH))
    return {"digest": digest, "digest_source": source}


def _size(side: int) -> dict[str, Any]:
    return {"image_size": (side, side)}


def _classifier(
    name: str,
    source: str,
    location: str,
    licence: str,
    metrics: Mapping[str, float],
    state: str,
    *,
    backbone: str = "mobilenet_v2",
    width: float = 1.0,
    architecture: Mapping[str, Any] | None = None,
    **more: Any,
) -> Entry:
    promised = {"backbone": backbone, "num_classes": 1000, "width": width, **(architecture or {})}
    return Entry(
        name,
        "classification",
        source,
        location,
        IMAGENET,
        licence,
        metrics,
        state,
        architecture=promised,
        **(_digest(location) | more),
    )


def _torchvision() -> Iterator[Entry]:
    for name, location, top1, top5 in _TORCHVISION:
        metrics = {"top1": top1, "top5": top5}
        yield _classifier(
            f"torchvision/{name}",
            "torchvision",
            location,
            "BSD-3-Clause",
            metrics,
            MODULES,
            backbone=name.partition("-")[0],
        )


def _timm() -> Iterator[Entry]:
    for architecture, tag, metrics in _TIMM:
        yield _classifier(
            f"timm/{architecture}-{tag}",
            "timm",
            f"hf://timm/{architecture}.{tag}/model.safetensors",
            _APACHE,
            metrics,
            MODULES,
            options={"padding": "tf"} if architecture.startswith("tf_") else {},
            architecture={
                "depth": 1.0,
                "minimalistic": False,
                **TIMM_MODELS.get(architecture, TIMM_MODELS.get(architecture.removeprefix("tf_"), {})),
            },
        )


def _huggingface() -> Iterator[Entry]:
    tables = {"mobilenet_v2": _TF_V2, "mobilenet_v1": _TF_V1}
    for name in (*_GOOGLE, "mobilenet_v1_1.0_224", "mobilenet_v1_0.75_192"):
        family, width, side = name.rsplit("_", 2)
        top1, top5 = next(row[1:] for row in tables[family][width] if row[0] == int(side))
        yield _classifier(
            f"huggingface/{family}_{width}-{side}",
            "huggingface",
            f"hf://google/{name}/model.safetensors",
            "other (see its page)",
            {"top1": top1, "top5": top5},
            MODULES,
            preprocessing=_size(int(side)) | {"crop_fraction": int(side) / (int(side) + 32)},
            backbone=family,
            width=float(width),
        )
    yield Entry(
        "huggingface/deeplabv3_mobilenet_v2_1.0-513",
        "segmentation",
        "huggingface",
        "hf://google/deeplabv3_mobilenet_v2_1.0_513/model.safetensors",
        VOC,
        "other (see its page)",
        {},
        MODULES,
        digest_source=ON_THE_HUB,
        architecture={"backbone": "mobilenet_v2", "num_classes": 21, "width": 1.0},
    )


def _tensorflow() -> Iterator[Entry]:
    v2, v1 = "https://storage.googleapis.com/mobilenet_v2/checkpoints", "mobilenet_v1_2018_08_02"
    for family, table in (("mobilenet_v2", _TF_V2), ("mobilenet_v1", _TF_V1)):
        for width, rows in table.items():
            for side, top1, top5 in rows:
                file = f"{family}_{width}_{side}"
                base = v2 if family == "mobilenet_v2" else f"http://download.tensorflow.org/models/{v1}"
                state = LAYOUT
                if file == "mobilenet_v2_1.0_224":
                    state = (
                        "verified on its weights (classifier dequantised from 8 bits): published probabilities to 0.003"
                    )
                yield _classifier(
                    f"tensorflow/{family}_{width}-{side}",
                    "tensorflow",
                    f"{base}/{file}.tgz",
                    _APACHE,
                    {"top1": top1, "top5": top5},
                    state,
                    member=_CHECKPOINT,
                    preprocessing=_size(side),
                    backbone=family,
                    width=float(width),
                )
    for kind, archive, width, top1 in _TF_V3:
        yield _classifier(
            f"tensorflow/mobilenet_v3_{kind}_{width}-224",
            "tensorflow",
            f"https://storage.googleapis.com/mobilenet_v3/checkpoints/{archive}_float.tgz",
            _APACHE,
            {"top1": top1},
            LAYOUT if "large" in kind else f"{LAYOUT}; its published parameter count is not that of TF-slim's code",
            member="*ema/model-*.index",
            backbone=f"mobilenet_v3_{kind.partition('_')[0]}",
            width=float(width),
            architecture={"minimalistic": kind.endswith("minimalistic")},
        )
    for name, archive, mean_ap in _TF_DETECTION:
        base = "http://download.tensorflow.org/models/object_detection"
        state = LAYOUT
        if name.startswith("ssdlite"):
            state = "verified on a published one-class detector with the same names; this file itself was not available"
        location = f"{base}/{archive}.tar.gz"
        yield Entry(
            f"tensorflow/{name}",
            "detection",
            "tensorflow",
            location,
            COCO,
            _APACHE,
            {"mAP": mean_ap},
            state,
            member=_CHECKPOINT,
            **_digest(location),
            architecture={"backbone": name.partition("_")[2].partition("-")[0], "num_classes": 80},
        )
    for name, archive, stride, iou, subset in _TF_DEEPLAB:
        state = LAYOUT
        if archive == "deeplabv3_mnv2_pascal_trainval_2018_01_29":
            state = "verified on its weights: logits to 1.1e-4; mIoU 77.9 on 47 photos of VOC"
        location = f"http://download.tensorflow.org/models/{archive}.tar.gz"
        yield Entry(
            f"tensorflow/deeplabv3_{name}",
            "segmentation",
            "tensorflow",
            location,
            VOC,
            _APACHE,
            {f"mIoU ({subset})": iou},
            state,
            member=_CHECKPOINT,
            **_digest(location),
            options={"output_stride": stride},
            architecture={
                "backbone": "mobilenet_v2",
                "num_classes": 21,
                "width": 0.5 if "dm05" in name else 1.0,
            },
        )


def _others() -> Iterator[Entry]:
    for tag, file, top1, top5 in _PADDLE:
        base = "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph"
        metrics = {"top1": top1, "top5": top5}
        location = f"{base}/{file}_pretrained.pdparams"
        width = float(tag.removesuffix("_ssld")[1:].replace("_", "."))
        yield _classifier(
            f"paddle/mobilenet_v2_{tag}-imagenet", "paddle", location, _APACHE, metrics, LAYOUT, width=width
        )
    for tag, file, side, top1, top5 in _D_LI14:
        yield _classifier(
            f"d-li14/mobilenetv2_{tag.replace('_', '-')}",
            "pytorch",
            f"https://github.com/d-li14/mobilenetv2.pytorch/raw/master/pretrained/{file}.pth",
            _APACHE,
            {"top1": top1, "top5": top5},
            LAYOUT,
            preprocessing=_size(side),
            width=float(tag.partition("_")[0]),
        )
    yield _classifier(
        "tonylins/mobilenet_v2-imagenet",
        "pytorch",
        "",
        _APACHE,
        {"top1": 71.8},
        LAYOUT,
        **_digest("mobilenet_v2.pth.tar"),
    )


ENTRIES: tuple[Entry, ...] = (*_torchvision(), *_timm(), *_huggingface(), *_tensorflow(), *_others())


def list_weights(task: str | None = None, source: str | None = None) -> list[Entry]:
    """List the published weights that `load` takes by name.

    Args:
        task: "classification", "detection" or "segmentation"; all tasks if None.
        source: The first part of the names, such as "timm", or an importer's name; all sources if None.

    Raises:
        ConfigError: For an unknown task or source.
    """
    tasks = {entry.task for entry in ENTRIES}
    sources = {entry.name.partition("/")[0] for entry in ENTRIES} | {entry.source for entry in ENTRIES}
    for key, value, known in (("task", task, tasks), ("source", source, sources)):
        if value is not None and value not in known:
            raise ConfigError(f"{key}={value} is unknown; valid: {', '.join(sorted(known))}")
    return [
        entry
        for entry in ENTRIES
        if task in (None, entry.task) and source in (None, entry.name.partition("/")[0], entry.source)
    ]


def find(name: str) -> Entry:
    """Find published weights by name; timm's own spelling (`mobilenetv2_100.ra_in1k`) works too.

    Raises:
        WeightsError: For an unknown name, with the closest ones.
    """
    names = {entry.name: entry for entry in list_weights()}
    for entry in list_weights(source="timm"):
        theirs = entry.location.split("/")[3]
        if name in (theirs, f"timm/{theirs}"):
            return entry
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else "; mv.list_weights() lists the names"
        raise WeightsError(f"{name}: no such file, and no published weights by that name{hint}")
    return names[name]
