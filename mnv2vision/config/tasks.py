"""What `task=` chooses from: options of the model, the loss, the augmentation."""

from dataclasses import dataclass
from typing import Annotated, Literal

from mnv2vision.config.annotations import (
    AboveZero,
    Alpha,
    BatchSizeOrAuto,
    BelowOne,
    Channels,
    Detections,
    Name,
    Share,
    Size,
    Step,
    Strength,
)
from mnv2vision.config.kinds import Many, Number, Word, optional, whole
from mnv2vision.config.options import option, section
from mnv2vision.config.sections import Inference


@dataclass(frozen=True)
class _ClassificationModel:
    dropout: BelowOne | None = option(None, "null: the model's")


@dataclass(frozen=True)
class _ClassificationLoss:
    label_smoothing: Share = option(0.1, "share of the target that goes to all classes alike")


@dataclass(frozen=True)
class _ClassificationAugmentation:
    image_size: Size = option(None, "side of the training crops; null: the model's")
    crop_scale: Annotated[tuple[float, float], Many(Number(most=1, above=0), 2, 2)] = option(
        (0.35, 1.0), "share of the image's area"
    )
    crop_ratio: Annotated[tuple[float, float], Many(Number(0.001, 1000), 2, 2)] = option(
        (0.75, 1.3333), "width to height"
    )
    flip: Share = option(0.5, "probability of the mirror image")
    color_jitter: Strength = option(0.0, "strength of changes of colour, 0 for none")
    rand_augment: Annotated[int, whole(0, 30)] = option(0, "magnitude, 0 for none")
    erasing: Share = option(0.0, "probability of a random patch")
    mixup: Alpha = option(0.0, "alpha, 0 for none")
    cutmix: Alpha = option(0.0, "alpha, 0 for none")


@dataclass(frozen=True)
class Classification:
    """Cross entropy; top-1 and top-5."""

    task: Name = option("classification", "classification | detection | segmentation | joint")
    model: _ClassificationModel = section(_ClassificationModel)
    loss: _ClassificationLoss = section(_ClassificationLoss)
    augmentation: _ClassificationAugmentation = section(_ClassificationAugmentation)


@dataclass(frozen=True)
class _DetectionModel:
    head: Name | None = option(None, "ssdlite | ssd | ssd_mobilenet_v1 | ssd_mobilenet_v2")
    reduce_lowest: bool | None = option(
        None, "true: three anchors a cell on the finest map, as TensorFlow has it; false: six"
    )
    scores: Name | None = option(None, "sigmoid | softmax")
    nms_iou: AboveZero | None = option(None, "of two boxes of a class that overlap by more, the better one stays")
    max_detections: Detections | None = option(None, "how many objects are found on an image at most: 100")


@dataclass(frozen=True)
class _DetectionLoader:
    batch_size: BatchSizeOrAuto = option(24, "images per process; auto: the most that fit into memory")


@dataclass(frozen=True)
class _DetectionAugmentation:
    crop: Share = option(0.7, "probability of a random crop")
    crop_by: Name = option("coverage", "coverage: TensorFlow's; iou: torchvision's")
    expand: Share = option(0.3, "probability of a larger canvas, which makes objects smaller")
    max_expansion: Annotated[float, Number(1, 8)] = option(3.0, "of the canvas's sides, at most")
    flip: Share = option(0.5, "probability of the mirror image")
    color_jitter: Strength = option(0.4, "strength of changes of colour, 0 for none")


@dataclass(frozen=True)
class Detection:
    """SSDLite: sigmoid and smooth L1 loss with hard negatives; COCO's metrics, or VOC's on VOC."""

    task: Name = option("detection", "classification | detection | segmentation | joint")
    model: _DetectionModel = section(_DetectionModel)
    loader: _DetectionLoader = section(_DetectionLoader)
    augmentation: _DetectionAugmentation = section(_DetectionAugmentation)


@dataclass(frozen=True)
class _SegmentationModel:
    head: Name | None = option(None, "aspp | lraspp (MobileNetV3's)")
    atrous_rates: Annotated[tuple[int, ...], Many(whole(1, 1000))] | None = option(
        None, "of aspp at output stride 16, such as [6,12,18]; null: none, as the paper recommends"
    )
    head_channels: Channels | None = option(None, "null: 256 (aspp), 128 (lraspp)")
    head_norm_eps: AboveZero | None = option(None, "null: the backbone's")
    head_activation: Name | None = option(None, "relu | relu6")
    dropout: BelowOne | None = option(None, "null: 0.1")


@dataclass(frozen=True)
class _SegmentationLoader:
    batch_size: BatchSizeOrAuto = option(16, "images per process; auto: the most that fit into memory")


@dataclass(frozen=True)
class _SegmentationLoss:
    class_weights: Annotated[
        tuple[float, ...] | str | None, optional(Many(Number(0, 1e6), least=1), Word(("auto",)))
    ] = option(None, "a weight for each class; auto: by how rare it is in the training masks")
    hardest: AboveZero = option(1.0, "share of the pixels that count, those with the largest losses")


@dataclass(frozen=True)
class _SegmentationAugmentation:
    scale: Annotated[tuple[float, float], Many(Number(most=16, above=0), 2, 2)] = option(
        (0.5, 2.0), "of random resizing"
    )
    scale_step: Step = option(0.25, "between possible scales; 0: any")
    fit: bool = option(False, "scales are of the size the model's resize rule gives, not of the photo's own")
    flip: Share = option(0.5, "probability of the mirror image")
    color_jitter: Strength = option(0.0, "strength of changes of colour, 0 for none")


@dataclass(frozen=True)
class Segmentation:
    """Mobile DeepLabv3: cross entropy per pixel; mean IoU at the photos' own sizes."""

    task: Name = option("segmentation", "classification | detection | segmentation | joint")
    model: _SegmentationModel = section(_SegmentationModel)
    loader: _SegmentationLoader = section(_SegmentationLoader)
    loss: _SegmentationLoss = section(_SegmentationLoss)
    augmentation: _SegmentationAugmentation = section(_SegmentationAugmentation)
    inference: Inference = section(Inference)


@dataclass(frozen=True)
class _JointLoader:
    batch_size: BatchSizeOrAuto = option(
        24, "images per process, of all data sets together; auto: the most that fit into memory"
    )


@dataclass(frozen=True)
class _JointLoss:
    balance: Name = option("fixed", "fixed: loss.weights | uncertainty: learned | gradient: gradients of equal norm")


@dataclass(frozen=True)
class _JointDistill:
    images: Annotated[Literal["all", "unlabelled"], Word(("all", "unlabelled"))] = option(
        "unlabelled", "all, or unlabelled: those without labels of the head"
    )


@dataclass(frozen=True)
class Joint:
    """Several heads on one backbone: each with its own loss and metrics, on one data set or one each."""

    task: Name = option("joint", "classification | detection | segmentation | joint")
    loader: _JointLoader = section(_JointLoader)
    loss: _JointLoss = section(_JointLoss)
    distill: _JointDistill = section(_JointDistill)
    augmentation: _DetectionAugmentation = section(_DetectionAugmentation)
    inference: Inference = section(Inference)


TASKS: dict[str, type] = {
    "classification": Classification,
    "detection": Detection,
    "segmentation": Segmentation,
    "joint": Joint,
}
