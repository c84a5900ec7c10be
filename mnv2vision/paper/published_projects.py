"""Published figures of other projects' models."""

from mnv2vision.paper.published import Model, Row, Table, model


def _classifier(size: int = 224, **options: object) -> Model:
    return model("classification", size, num_classes=1000, **options)


TORCHVISION = Table(
    "torchvision",
    "torchvision's models",
    "torchvision 0.29.1, the weights' meta",
    (
        Row(
            "mobilenet_v2 V1",
            _classifier(),
            {"top1": "71.878", "top5": "90.286", "params": "3504872", "madds": "0.301B"},
        ),
        Row(
            "mobilenet_v2 V2",
            _classifier(),
            {"top1": "72.154", "top5": "90.822", "params": "3504872", "madds": "0.301B"},
        ),
        Row(
            "mobilenet_v3_large V1",
            _classifier(backbone="mobilenet_v3_large"),
            {"top1": "74.042", "params": "5483032", "madds": "0.217B"},
        ),
        Row(
            "mobilenet_v3_large V2",
            _classifier(backbone="mobilenet_v3_large"),
            {"top1": "75.274", "params": "5483032", "madds": "0.217B"},
        ),
        Row(
            "mobilenet_v3_small",
            _classifier(backbone="mobilenet_v3_small"),
            {"top1": "67.668", "params": "2542856", "madds": "0.057B"},
        ),
        Row(
            "ssdlite320_mobilenet_v3_large",
            model("torchvision_detector", 320, name="ssdlite320_mobilenet_v3_large", classes=91),
            {"mAP": "21.3", "params": "3440060", "madds": "0.583B"},
        ),
        Row(
            "ssd300_vgg16",
            model("ssd_vgg", 300, maps=6, columns=91),
            {"mAP": "25.1", "params": "35641826", "madds": "34.858B"},
        ),
        Row(
            "lraspp_mobilenet_v3_large",
            model("segmentation", 520, backbone="mobilenet_v3_large", head="lraspp"),
            {"mIoU": "57.9", "params": "3221538", "madds": "2.086B"},
        ),
        *(
            Row(
                name,
                model("torchvision_segmenter", 520, name=name, classes=21),
                {"mIoU": mIoU, "params": params, "madds": madds},
            )
            for name, mIoU, params, madds in (
                ("deeplabv3_mobilenet_v3_large", "60.3", "11029328", "10.452B"),
                ("deeplabv3_resnet50", "66.4", "42004074", "178.722B"),
                ("deeplabv3_resnet101", "67.4", "60996202", "258.743B"),
            )
        ),
    ),
    rounding="rounded",
    notes="mIoU on COCO's validation images with VOC's classes. SSDLite and DeepLabv3 are counted on torchvision's own "
    "modules: SSDLite up to its raw predictions, DeepLabv3 with its auxiliary head.",
)


def _deep(width: float, depth: float) -> Model:
    return _classifier(width=width, depth=depth, fixed_ends=True)


TIMM = Table(
    "timm",
    "timm's MobileNetV2",
    "huggingface/pytorch-image-models: docs/models/mobilenet-v2.md",
    (
        Row("mobilenetv2_100", _classifier(), {"top1": "72.95", "top5": "91.0", "params": "3.50M"}),
        Row("mobilenetv2_110d", _deep(1.1, 1.2), {"top1": "75.05", "top5": "92.19", "params": "4.52M"}),
        Row("mobilenetv2_120d", _deep(1.2, 1.4), {"top1": "77.28", "top5": "93.51", "params": "5.83M"}),
        Row("mobilenetv2_140", _classifier(width=1.4), {"top1": "76.51", "top5": "93.0", "params": "6.11M"}),
    ),
    rounding="rounded",
)

PADDLE = Table(
    "paddle",
    "PaddleClas's MobileNetV2",
    "PaddlePaddle/PaddleClas: docs, table of mobile models",
    tuple(
        Row(
            f"MobileNetV2_{name}",
            _classifier(width=width, variant="paddle"),
            {"top1": top1, "top5": top5, "params": params},
        )
        for name, width, top1, top5, params in (
            ("x0_25", 0.25, "53.21", "76.52", "1.53M"),
            ("x0_5", 0.5, "65.03", "85.72", "1.98M"),
            ("x0_75", 0.75, "69.83", "89.01", "2.65M"),
            ("x1_0", 1.0, "72.15", "90.65", "3.54M"),
            ("x1_0_ssld", 1.0, "76.74", "93.39", "3.54M"),
            ("x1_5", 1.5, "74.12", "91.67", "6.90M"),
            ("x2_0", 2.0, "75.23", "92.58", "11.33M"),
        )
    ),
    rounding="rounded",
    params="params_and_statistics",
    notes="Channels are truncated to integers, block 0 has an expansion, running statistics count as parameters. "
    "SSLD is trained by distillation.",
)

D_LI14 = Table(
    "d-li14",
    "d-li14's MobileNetV2",
    "d-li14/mobilenetv2.pytorch: README.md",
    tuple(
        Row(
            f"{width} at {size}",
            _classifier(size, width=width, divisor=4 if width == 0.1 else 8),
            {"top1": top1, "top5": top5, "params": params, "madds": f"{madds}M"},
        )
        for width, size, top1, top5, params, madds in (
            (1.0, 224, "72.192", "90.534", "3.504M", "300.79"),
            (1.0, 192, "71.076", "89.760", "3.504M", "221.33"),
            (1.0, 160, "69.504", "88.848", "3.504M", "154.10"),
            (1.0, 128, "66.740", "86.952", "3.504M", "99.09"),
            (1.0, 96, "62.696", "84.046", "3.504M", "56.31"),
            (0.75, 224, "69.952", "88.986", "2.636M", "209.08"),
            (0.5, 224, "64.592", "85.392", "1.968M", "97.14"),
            (0.35, 224, "60.092", "82.172", "1.677M", "59.29"),
            (0.25, 224, "52.352", "75.932", "1.519M", "37.21"),
            (0.1, 224, "34.896", "56.564", "1.356M", "12.92"),
        )
    ),
    madds="madds_and_norms",
    notes="At width 0.1 channels are multiples of 4. The multiply-adds match with one more for each channel of a "
    "batch norm, whatever the size of its map.",
)

DETECTORS = Table(
    "detectors",
    "Other projects' SSDLite with MobileNetV2",
    "mmdetection: configs/ssd; qfgaohao/pytorch-ssd: README.md",
    (
        Row(
            "mmdetection ssdlite_mobilenetv2-scratch, COCO",
            model(
                "detection",
                320,
                num_classes=80,
                taps=("block12", "last"),
                reduce_lowest=False,
            ),
            {"mAP": "21.3"},
        ),
        Row(
            "qfgaohao mb2-ssd-lite, VOC 2007",
            None,
            {"mAP": "68.61"},
            {"model": "its extra maps are inverted residuals of stride 2"},
        ),
        Row(
            "qfgaohao mb1-ssd, VOC 2007", None, {"mAP": "67.55"}, {"model": "SSD with full convolutions on MobileNetV1"}
        ),
    ),
    notes="No parameters or multiply-adds are published.",
)
