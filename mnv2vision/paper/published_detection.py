"""Published figures of detection: tables 5 and 6, and TensorFlow's model zoo."""

from mnv2vision.paper.published import PAPER, Model, Row, Table, model

TABLE_5 = Table(
    "5",
    "Extra maps and predictors of SSD and SSDLite on MobileNetV2",
    f"{PAPER}, table 5",
    (
        Row("SSD", model("head", 320, head="ssd", num_classes=80), {"params": "14.8M", "madds": "1.25B"}),
        Row(
            "SSDLite",
            model("head", 320, num_classes=80),
            {"params": "2.1M", "madds": "0.35B"},
            {"madds": "twice the multiply-adds, apparently operations; table 6 would have 1.0B with it, not 0.8B"},
        ),
    ),
    notes="Without the backbone; 320x320, 80 classes and the background, three anchors per cell on the first map and "
    "six on the others.",
)

_SSD = "not explained; at 91 columns SSD300 has exactly torchvision's counts (table=torchvision)"

TABLE_6 = Table(
    "6",
    "COCO detection",
    f"{PAPER}, table 6",
    (
        Row(
            "SSD300",
            model("ssd_vgg", 300, maps=6, columns=81),
            {"mAP": "23.2", "params": "36.1M", "madds": "35.2B"},
            {
                "params": "SSD512's parameters, given for SSD300 as well",
                "madds": _SSD,
            },
        ),
        Row(
            "SSD512",
            model("ssd_vgg", 512, maps=7, columns=81),
            {"mAP": "26.8", "params": "36.1M", "madds": "99.5B"},
            dict.fromkeys(("params", "madds"), _SSD),
        ),
        Row(
            "YOLOv2",
            model("yolo_v2", 416, classes=80, squeeze=False),
            {"mAP": "21.6", "params": "50.7M", "madds": "17.5B"},
            {"params": "the figure of the next row's network, whose multiply-adds differ"},
        ),
        Row(
            "YOLOv2, VOC's 20 classes, 1x1 to 64 in the passthrough",
            model("yolo_v2", 416, classes=20, squeeze=True),
            {"params": "50.7M"},
        ),
        Row(
            "MNet V1 + SSDLite",
            model("detection", 320, backbone="mobilenet_v1", num_classes=80),
            {"mAP": "22.2", "params": "5.1M", "madds": "1.3B", "latency": "270ms"},
        ),
        Row(
            "MNet V2 + SSDLite",
            model("detection", 320, num_classes=80),
            {"mAP": "22.1", "params": "4.3M", "madds": "0.8B", "latency": "200ms"},
        ),
    ),
    rounding="rounded",
    notes="mAP on COCO test-dev. Latency on a Pixel 1. The row of VOC's YOLOv2 is not in the paper: YOLOv2's two "
    "figures belong to two different networks.",
)


def _zoo(name: str, mean_ap: str, latency: str, spec: Model | None = None, **reasons: str) -> Row:
    return Row(name, spec, {"mAP": mean_ap, "latency": latency}, reasons)


def _detector(**options: object) -> Model:
    return model("detection", 300, num_classes=90, **options)


_FPN = "has a feature pyramid"
_SEARCHED = "its searched structure is not built here"
_TF_TAIL = "its own extra maps and taps, not built here"

DETECTION_ZOO = Table(
    "detection_zoo",
    "TensorFlow's detection model zoo",
    "tensorflow/models: research/object_detection/g3doc/tf1_detection_zoo.md",
    (
        _zoo("ssd_mobilenet_v1_coco", "21", "30ms", _detector(backbone="mobilenet_v1", head="ssd_mobilenet_v1")),
        _zoo(
            "ssd_mobilenet_v1_0.75_depth_coco",
            "18",
            "26ms",
            _detector(backbone="mobilenet_v1", width=0.75, head="ssd_mobilenet_v1"),
        ),
        _zoo("ssd_mobilenet_v1_fpn_coco", "32", "56ms", model=_FPN),
        _zoo("ssd_mobilenet_v2_coco", "22", "31ms", _detector(head="ssd_mobilenet_v2")),
        _zoo("ssd_mobilenet_v2_quantized_coco", "22", "29ms", _detector(head="ssd_mobilenet_v2")),
        _zoo("ssdlite_mobilenet_v2_coco", "22", "27ms", _detector()),
        _zoo("ssd_mobilenet_v3_large_coco", "22.6", "119ms", model=_TF_TAIL),
        _zoo("ssd_mobilenet_v3_small_coco", "15.4", "43ms", model=_TF_TAIL),
        _zoo("ssd_mobiledet_cpu_coco", "24.0", "113ms", model=_SEARCHED),
        _zoo("ssd_mobilenet_v2_mnasfpn_coco", "26.6", "183ms", model=_SEARCHED),
    ),
    notes="No parameters or multiply-adds are published. mAP on a part of COCO's validation images. Latency with all "
    "pre- and post-processing of a 600x600 photo on a Titan X; from V3 on, on a Pixel 1 at 320x320.",
)
