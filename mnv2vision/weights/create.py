"""Models by task and options, with random weights or those of a file."""

import logging
import os
from collections.abc import Mapping, Sequence

from mnv2vision.errors import ConfigError
from mnv2vision.models.create import configure
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.weights import file, registry

log = logging.getLogger(__name__)


def create_model(
    task: str | Mapping[str, Mapping[str, object]],
    *,
    backbone: str | None = None,
    init_from: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    names: Sequence[str] = (),
    image_size: int | tuple[int, int] | None = None,
    preprocessing: Preprocessing | Mapping[str, object] | None = None,
    **options: object,
) -> VisionModel:
    """Create a model.

    Args:
        task: "classification", "detection" or "segmentation"; or several heads by name, each with its `num_classes`,
            `names`, `taps` and options, and with its `task` where that is not its name.
        backbone: See `create_backbone`; mobilenet_v2, or that of `init_from`, if None.
        init_from: Weights to start from: a model file, a name from `list_weights`, or "hf://<owner>/<repository>".
            What it says of backbone, preprocessing and heads for the same task is the default; a head for other
            classes or another task is new. None: random weights.
        num_classes: Number of classes; that of `names`, or of the task's standard data set, if None.
        names: Class names by label.
        image_size: A side, or (height, width), of the network's input in pixels; overrides the preprocessing's.
        preprocessing: How the model wants its images; ImageNet's mean and deviation by default.
        **options: Of the backbone (`width`, `padding`, …) and of the only head: classification `dropout`; detection
            `head`, `reduce_lowest`, `scores`, `nms_iou`, `max_detections`; segmentation `head`, `atrous_rates`,
            `head_channels`, `head_norm_eps`, `head_activation`, `dropout`; and `taps`, the features it stands on.

    Returns:
        The model; `model(images)` takes normalised float images (N, 3, H, W).

    Raises:
        ConfigError: For unknown or contradictory names and values.
        WeightsError: For weights that cannot be found or read, or do not fit the backbone.
    """
    weights = None if init_from is None else file.read(registry.resolve(init_from))
    held = None if weights is None else weights.config
    if held is not None and backbone not in (None, held.backbone):
        raise ConfigError(f"backbone={backbone}, but {init_from} holds {held.backbone}")
    config = configure(
        task,
        backbone or ("mobilenet_v2" if held is None else held.backbone),
        options,
        num_classes=num_classes,
        names=names,
        image_size=image_size,
        preprocessing=preprocessing,
        like=held,
    )
    model = VisionModel(config)
    if weights is not None:
        log.info(file.initialize_from(model, weights, str(init_from)))
    return model
