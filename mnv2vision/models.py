"""Models by task and options."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mnv2vision.backbones import BACKBONES, create_backbone
from mnv2vision.classification.model import Classifier
from mnv2vision.detection.model import SSDLite
from mnv2vision.errors import ConfigError, check_names, keyword_names
from mnv2vision.preprocessing import Preprocessing, as_pair
from mnv2vision.segmentation.model import DeepLabV3
from mnv2vision.vision_model import VisionModel

MODELS: dict[str, type[Classifier | SSDLite | DeepLabV3]] = {
    "classification": Classifier,
    "detection": SSDLite,
    "segmentation": DeepLabV3,
}


def create_model(
    task: str,
    *,
    backbone: str = "mobilenet_v2",
    num_classes: int | None = None,
    names: Sequence[str] = (),
    image_size: int | tuple[int, int] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    **options: Any,
) -> VisionModel:
    """Create a model with random weights.

    Args:
        task: "classification", "detection" or "segmentation".
        backbone: See `create_backbone`.
        num_classes: Number of classes; that of `names`, or of the task's standard data set, if None.
        names: Class names by label.
        image_size: A side, or (height, width), of the network's input in pixels; overrides the preprocessing's.
        preprocessing: How the model wants its images; ImageNet's mean and deviation by default.
        **options: Of the backbone (`width`, `padding`, …) and of the head: classification `dropout`; detection `head`,
            `reduce_lowest`, `scores`, `nms_iou`, `max_detections`; segmentation `head`, `atrous_rates`,
            `head_channels`, `head_norm_eps`, `head_activation`, `dropout`.

    Returns:
        The model; `model(images)` takes normalised float images (N, 3, H, W).

    Raises:
        ConfigError: For unknown or contradictory names and values.
    """
    if task not in MODELS:
        raise ConfigError(f"task {task!r} is unknown; valid: {', '.join(MODELS)}")
    if backbone not in BACKBONES:
        raise ConfigError(f"backbone {backbone!r} is unknown; valid: {', '.join(BACKBONES)}")
    head = MODELS[task]
    if num_classes is None:
        num_classes = len(names) or head.default_num_classes
    if num_classes < 1:
        raise ConfigError(f"num_classes={num_classes} must be at least 1")
    if names and len(names) != num_classes:
        raise ConfigError(f"num_classes={num_classes}, but there are {len(names)} class names")

    head_keys = [key for key in keyword_names(head) if key in options]
    backbone_options = {key: value for key, value in options.items() if key not in head_keys}
    valid = [*keyword_names(BACKBONES[backbone]), *(key for key in keyword_names(head) if key != "num_classes")]
    check_names(valid, options, f"option of a {task} model with {backbone}")
    defaults = {"taps": head.default_taps(backbone, options), "output_stride": head.default_output_stride}
    model = head(
        create_backbone(backbone, **(defaults | backbone_options)),
        num_classes=num_classes,
        **{key: options[key] for key in head_keys},
    )

    if preprocessing is None:
        preprocessing = {"image_size": head.default_image_size, "resize": head.default_resize}
    if not isinstance(preprocessing, Preprocessing):
        preprocessing = Preprocessing.from_dict(dict(preprocessing))
    if image_size is not None:
        preprocessing = replace(preprocessing, image_size=as_pair(image_size))
    model.preprocessing = preprocessing
    model.names = tuple(names)
    model.config = {"task": task, "backbone": backbone, "num_classes": num_classes, **options}
    return model
