"""Models by task and options."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mnv2vision.backbones import BACKBONES
from mnv2vision.contracts import HeadConfig, ModelConfig, Options
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
    """Create a model with random weights, of the arguments of `weights.create.create_model`, which see."""
    config = configure(
        task,
        backbone,
        options,
        num_classes=num_classes,
        names=names,
        image_size=image_size,
        preprocessing=preprocessing,
    )
    return VisionModel(config)


def configure(
    task: str | Mapping[str, Mapping[str, object]],
    backbone: str,
    options: Options,
    *,
    num_classes: int | None = None,
    names: Sequence[str] = (),
    image_size: int | tuple[int, int] | None = None,
    preprocessing: Preprocessing | Mapping[str, object] | None = None,
    like: ModelConfig | None = None,
) -> ModelConfig:
    """The configuration of a model, of the arguments of `create_model`, which see.

    Args:
        task: One, or the heads.
        backbone: Its name.
        options: Of the backbone, and of the only head.
        num_classes: Of the only head.
        names: Of the only head.
        image_size: Of the network's input.
        preprocessing: Of the images.
        like: What stands here of the backbone, of heads for the same task and of the preprocessing is the default.
    """
    if backbone not in BACKBONES:
        raise ConfigError(f"backbone {backbone!r} is unknown; valid: {', '.join(BACKBONES)}")
    if isinstance(task, str):
        of_head = ("taps", *keyword_names(find_task(task).head.build))
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
    alike = False
    if like is not None:
        theirs = {name: like.head_like(name, str(head.get("task", name))) for name, head in task.items()}
        task = {name: {**_kept(like, theirs[name]), **head} for name, head in task.items()}
        alike = None not in theirs.values()
        # What was chosen for another task does not carry over.
        options = {
            **{key: value for key, value in like.backbone_options.items() if alike or key != "output_stride"},
            **options,
        }
    heads = {name: _head_config(name, head) for name, head in task.items()}
    kinds = [find_task(head.task).head for head in heads.values()]
    if "output_stride" not in options:
        options = {**options, "output_stride": min((kind.output_stride for kind in kinds), default=32)}
    # Of several heads the largest input, and a photo that is neither cropped nor distorted.
    rules = {kind.resize for kind in kinds}
    resize = rules.pop() if len(rules) == 1 else "letterbox"
    usual = {"image_size": max((kind.image_size for kind in kinds), default=224), "resize": resize}
    if not isinstance(preprocessing, Preprocessing):
        if like is not None:
            preprocessing = {**like.preprocessing.to_dict(), **({} if alike else usual), **(preprocessing or {})}
        preprocessing = Preprocessing.from_dict(dict(usual if preprocessing is None else preprocessing))
    if image_size is not None:
        preprocessing = replace(preprocessing, image_size=as_pair(image_size))
    return ModelConfig(backbone, heads, options, preprocessing)


def _kept(like: ModelConfig, name: str | None) -> dict[str, object]:
    """Options and taps of a head, empty for none."""
    if name is None:
        return {}
    head = like.heads[name]
    return {**head.options, **({} if head.taps is None else {"taps": head.taps})}


def _head_config(name: str, given: Mapping[str, object]) -> HeadConfig:
    options = dict(given)
    task = str(options.pop("task", name))
    kind = find_task(task).head
    common: dict[str, Any] = {key: options.pop(key) for key in _OF_HEADS if key in options}
    check_names(keyword_names(kind.build), options, f"option of a {task} head")
    num_classes, names = common.get("num_classes"), common.get("names", ())
    if num_classes is None:
        num_classes = len(names) if isinstance(names, list | tuple) and names else kind.num_classes
    return HeadConfig(task, num_classes, names, common.get("taps"), options)
