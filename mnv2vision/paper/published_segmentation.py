"""Published figures of segmentation: table 7 and DeepLab's model zoo."""

from mnv2vision.paper.published import PAPER, Row, Table, model

MULTI_SCALE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
_CITYSCAPES_SCALES = (0.75, 1.0, 1.25)
_ASPP = (6, 12, 18)
_PROFILER = (
    "TensorFlow's profiler also counts additions, the scaling of the image and the argmax: about 4M at 513x513, with "
    "which it is 2.75B"
)
_REST = "not explained in full; TensorFlow's profiler also counts additions, the scaling of the image and the argmax"


def _row(name: str, stride: int, mean_iou: str, params: str, madds: str, **options: object) -> Row:
    """A row of table 7; at output stride 8, with several scales and flips."""
    scales = MULTI_SCALE if stride == 8 else (1.0,)
    kind = "resnet101_deeplab" if name.startswith("ResNet") else "segmentation"
    spec = model(kind, 513, scales, output_stride=stride, **options)
    reasons = {"madds": _PROFILER if name == "MNet V2" and stride == 16 else _REST}
    if name.startswith("MNet V1") and stride == 8:
        reasons["madds"] = "not explained by any rates, sizes or passes tried; the rows of V2 and ResNet match"
    return Row(
        f"{name} OS {stride}{' MF' * (stride == 8)}",
        spec,
        {"mIoU": mean_iou, "params": params, "madds": madds},
        reasons,
    )


_V1: dict[str, object] = {"backbone": "mobilenet_v1", "atrous_rates": _ASPP}

TABLE_7 = Table(
    "7",
    "DeepLabv3 on PASCAL VOC 2012",
    f"{PAPER}, table 7",
    (
        _row("MNet V1 ASPP", 16, "75.29", "11.15M", "14.25B", **_V1),
        _row("MNet V1 ASPP", 8, "78.56", "11.15M", "941.9B", **_V1),
        _row("MNet V2 ASPP", 16, "75.70", "4.52M", "5.8B", atrous_rates=_ASPP),
        _row("MNet V2 ASPP", 8, "78.42", "4.52M", "387B", atrous_rates=_ASPP),
        _row("MNet V2", 16, "75.32", "2.11M", "2.75B"),
        _row("MNet V2", 8, "77.33", "2.11M", "152.6B"),
        _row("ResNet-101 ASPP", 16, "80.49", "58.16M", "81.0B"),
        _row("ResNet-101 ASPP", 8, "82.70", "58.16M", "4870.6B"),
    ),
    rounding="rounded",
    madds="madds_space_to_batch",
    notes="513x513 (the caption says 512). MF: six scales and flips. The published multiply-adds count the padding "
    "of TensorFlow's space_to_batch, which makes each map a multiple of the dilation; PyTorch has none.",
)

_DM05: dict[str, object] = {"width": 0.5, "divisor": 1}
_NO_XCEPTION = "Xception is not built here"

DEEPLAB_ZOO = Table(
    "deeplab_zoo",
    "TensorFlow's DeepLab model zoo",
    "tensorflow/models: research/deeplab/g3doc/model_zoo.md",
    (
        Row(
            "mobilenetv2_dm05_coco_voc_trainaug",
            model("segmentation", 513, output_stride=16, **_DM05),
            {"mIoU": "70.19", "madds": "0.88B"},
            {"madds": _REST},
        ),
        Row(
            "mobilenetv2_dm05_coco_voc_trainval",
            model("segmentation", 513, output_stride=8, **_DM05),
            {"mIoU": "71.83", "madds": "2.84B"},
            {"madds": _REST},
        ),
        Row(
            "mobilenetv2_coco_voc_trainaug OS 16",
            model("segmentation", 513, output_stride=16),
            {"mIoU": "75.32", "madds": "2.75B"},
            {"madds": _PROFILER},
        ),
        Row(
            "mobilenetv2_coco_voc_trainaug OS 8 MF",
            model("segmentation", 513, MULTI_SCALE, output_stride=8),
            {"mIoU": "77.33", "madds": "152.59B"},
            {"madds": _REST},
        ),
        Row(
            "mobilenetv2_coco_voc_trainval OS 8 MF",
            model("segmentation", 513, MULTI_SCALE, output_stride=8),
            {"mIoU": "80.25", "madds": "152.59B"},
            {"madds": _REST},
        ),
        Row(
            "xception65_coco_voc_trainaug OS 16",
            None,
            {"mIoU": "82.20", "madds": "54.17B"},
            {"model": _NO_XCEPTION},
        ),
        Row(
            "xception65_coco_voc_trainaug OS 8 MF",
            None,
            {"mIoU": "83.58", "madds": "3055.35B"},
            {"model": _NO_XCEPTION},
        ),
        Row(
            "mobilenetv2_coco_cityscapes_trainfine OS 16",
            model("segmentation", (1025, 2049), output_stride=16, num_classes=19),
            {"mIoU": "70.71", "madds": "21.27B"},
            {"madds": _REST},
        ),
        Row(
            "mobilenetv2_coco_cityscapes_trainfine OS 8 MF",
            model("segmentation", (1025, 2049), _CITYSCAPES_SCALES, output_stride=8, num_classes=19),
            {"mIoU": "73.57", "madds": "433.24B"},
            {"madds": _REST},
        ),
        Row(
            "mobilenetv2_ade20k_train",
            None,
            {"mIoU": "32.04"},
            {"model": "has a decoder of output stride 4"},
        ),
        Row(
            "8-bit mobilenetv2_dm05_coco_voc_trainaug",
            model("segmentation", 513, output_stride=16, **_DM05),
            {"mIoU": "69.65"},
        ),
        Row(
            "8-bit mobilenetv2_coco_voc_trainaug",
            model("segmentation", 513, output_stride=16),
            {"mIoU": "74.26"},
        ),
    ),
    rounding="rounded",
    madds="madds_space_to_batch",
    notes="mIoU on the validation images, of trainval models on the test images. MF: six scales and flips; for "
    "Cityscapes three, and flips.",
)
