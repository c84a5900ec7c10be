"""Models by task and options."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mnv2vision.backbones import BACKBONES
from mnv2vision.contracts import HeadConfig, HeadKind, ModelConfig, Options
from mnv2vision.errors import ConfigError, check_names, keyword_names
from mnv2vision.models.tasks import find_task
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.preprocessing import Preprocessing, as_pair

_OF_HEADS = ("num_classes", "names", "taps")


def create_model(
    task: str | Mapping[str, Mapping[str, object]],
    *,
    backbone: str = "mobilenet_v2",
    num_classes: int | None = None,
    names: Sequence[str] = (),
    image_size: int | tuple[int, int] | None = None,
    preprocessing: Preprocessing | Mapping[str, object] | None = None,
    **options: object,
) -> VisionModel:
    """Create a model with random weights.

    Args:
        task: "classification", "detection" or "segmentation"; or several heads by name, each with its `num_classes`,
            `names`, `taps` and options, and with its `task` where that is not its name.
        backbone: See `create_backbone`.
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
    """
    config = configure(task, backbone, options, num_classes=num_classes, names=names, preprocessing=preprocessing)
    if image_size is not None:
        config = replace(config, preprocessing=replace(config.preprocessing, image_size=as_pair(image_size)))
    return VisionModel(config)


def configure(
    task: str | Mapping[str, Mapping[str, object]],
    backbone: str,
    options: Options,
    *,
    num_classes: int | None = None,
    names: Sequence[str] = (),
    preprocessing: Preprocessing | Mapping[str, object] | None = None,
) -> ModelConfig:
    """The configuration of a model, of the arguments of `create_model`, which see."""
    if backbone not in BACKBONES:
        raise ConfigError(f"backbone {backbone!r} is unknown; valid: {', '.join(BACKBONES)}")
    if isinstance(task, str):
        of_head = ("taps", *_head_options(find_task(task).head))
        check_names(
            [*keyword_names(BACKBONES[backbone]), *of_head[1:]], options, f"option of a {task} model with {backbone}"
        )
        mine = {key: value for key, value in options.items() if key in of_head}
        options = {key: value for key, value in options.items() if key not in of_head}
        given = names if isinstance(names, str) else tuple(names)
        task = {task: {"num_classes": num_classes, "names": given, **mine}}
    elif num_classes is not None or names or "taps" in options:
        raise ConfigError("num_classes, names and taps are given by head where there are several")
    if not (isinstance(task, Mapping) and all(isinstance(head, Mapping) for head in task.values())):
        raise ConfigError(f"heads={task!r}: several heads are given as {{name: {{option: value}}}}")
    heads = {name: _head_config(name, head) for name, head in task.items()}
    kinds = [find_task(head.task).head for head in heads.values()]
    if "output_stride" not in options:
        options = {**options, "output_stride": min((kind.output_stride for kind in kinds), default=32)}
    if preprocessing is None:
        # Of several heads the largest input, and a photo that is neither cropped nor distorted.
        rules = {kind.resize for kind in kinds}
        resize = rules.pop() if len(rules) == 1 else "letterbox"
        preprocessing = {"image_size": max((kind.image_size for kind in kinds), default=224), "resize": resize}
    if not isinstance(preprocessing, Preprocessing):
        preprocessing = Preprocessing.from_dict(dict(preprocessing))
    return ModelConfig(backbone, heads, options, preprocessing)


def _head_config(name: str, given: Mapping[str, object]) -> HeadConfig:
    options = dict(given)
    task = str(options.pop("task", name))
    kind = find_task(task).head
    common: dict[str, Any] = {key: options.pop(key) for key in _OF_HEADS if key in options}
    check_names(_head_options(kind), options, f"option of a {task} head")
    num_classes, names = common.get("num_classes"), common.get("names", ())
    if num_classes is None:
        num_classes = len(names) if isinstance(names, list | tuple) and names else kind.num_classes
    return HeadConfig(task, num_classes, names, common.get("taps"), options)


def _head_options(kind: HeadKind) -> list[str]:
    return [
        parameter.name
        for parameter in inspect.signature(kind.build).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
