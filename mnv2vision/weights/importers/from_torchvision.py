"""torchvision's MobileNetV2 and V3: state dictionaries to our classifiers and back."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

from torch import Tensor

from mnv2vision.common.cache import home
from mnv2vision.errors import WeightsError, check_keywords
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.weights.download import offline
from mnv2vision.weights.importers.tables import (
    CLASSIFIER,
    HIDDEN,
    NamePairs,
    adjusted,
    affine_pairs,
    build,
    class_options,
    converter,
    export,
    layer_steps,
    unit_pairs,
)

PREPROCESSING = Preprocessing()
"""A centre crop of 224 of 256, ImageNet's mean and standard deviation."""

# At other widths, its V3 has other hidden channels than the paper's and TF-slim's networks.
_CANDIDATES: tuple[Mapping[str, object], ...] = (
    *({"backbone": "mobilenet_v2", "width": width} for width in (1.0, 1.4, 1.3, 0.75, 0.5, 0.35, 0.25)),
    {"backbone": "mobilenet_v3_large", "width": 1.0},
    {"backbone": "mobilenet_v3_small", "width": 1.0},
)


def name_pairs(model: VisionModel) -> NamePairs:
    """(our name, torchvision's name) of each parameter and buffer of a classifier."""
    v2 = model.config.backbone == "mobilenet_v2"
    for index, (name, steps) in enumerate(layer_steps(model.backbone)):
        ours, theirs = f"backbone.{name}", f"features.{index}"
        if not steps:
            yield from unit_pairs(ours, f"{theirs}.0", f"{theirs}.1")
        for position, step in enumerate(steps):
            part = f"{theirs}.{'conv' if v2 else 'block'}.{position}"
            if step == "squeeze_excite":
                yield from affine_pairs(f"{ours}.squeeze_excite.reduce", f"{part}.fc1")
                yield from affine_pairs(f"{ours}.squeeze_excite.expand", f"{part}.fc2")
            elif step == "project" and v2:  # there, the linear projection is not wrapped together with its norm
                yield from unit_pairs(f"{ours}.project", part, f"{theirs}.conv.{position + 1}")
            else:
                yield from unit_pairs(f"{ours}.{step}", f"{part}.0", f"{part}.1")
    if not v2:
        yield from affine_pairs(HIDDEN, "classifier.0")
    yield from affine_pairs(CLASSIFIER, "classifier.1" if v2 else "classifier.3")


def import_classifier(
    state: Mapping[str, Tensor], source: str, *, preprocessing: Preprocessing | Mapping[str, object] | None = None
) -> VisionModel:
    """Build our classifier from a state dictionary of torchvision's mobilenet_v2, mobilenet_v3_large or _small.

    Args:
        state: From `read_state`, of V2 of any common width, or of V3 of width 1.
        source: The file's name, for messages.
        preprocessing: Fields that differ from `PREPROCESSING`, or all of them as a `Preprocessing`.

    Raises:
        WeightsError: Naming a parameter that is missing, unexpected or of the wrong shape.
    """
    return build(
        state,
        source,
        project="torchvision's mobilenet_v2 or mobilenet_v3",
        candidates=_CANDIDATES,
        name_pairs=name_pairs,
        preprocessing=adjusted(PREPROCESSING, preprocessing),
        **class_options(state, "classifier.1.bias", "classifier.3.bias"),
    )


def export_state(model: VisionModel) -> dict[str, Tensor]:
    """Export a classifier's state for torchvision's mobilenet_v2(width_mult=...) or mobilenet_v3_* of width 1.

    Args:
        model: A classifier with MobileNetV2, or V3 of width 1; batch norm may carry folded biases.

    Raises:
        WeightsError: For what torchvision would compute differently: padding "tf", a norm_eps other than its own
            (1e-5 for V2, 1e-3 for V3), or an architecture that it does not have.
    """
    name = model.config.backbone
    if name == "mobilenet_v1":
        raise WeightsError("torchvision has no mobilenet_v1")
    free = ("norm_momentum", "initialization", *(("width",) if name == "mobilenet_v2" else ()))
    return export(model, project="torchvision", free=free, name_pairs=name_pairs)


_convert_file = converter("torchvision", {"classification": import_classifier})


def convert(task: str, path: str | os.PathLike[str], **options: object) -> VisionModel:
    """Import weights, as `convert source=torchvision` does.

    Args:
        task: "classification".
        path: A state dictionary's file, or the name of published weights such as
            "MobileNet_V2_Weights.IMAGENET1K_V2", which torchvision downloads.
        **options: Options of `import_classifier`.

    Raises:
        ConfigError: For another task, or an unknown option.
        WeightsError: For a file that cannot be downloaded, read, or does not fit.
    """
    if task == "classification" and not Path(path).exists():
        check_keywords(import_classifier, options, "option of source=torchvision")
        if "_Weights." in str(path):
            return _import_published(str(path), **options)
        raise WeightsError(f"{path}: no such file, and not a name such as MobileNet_V2_Weights.IMAGENET1K_V2")
    return _convert_file(task, path, **options)


def _import_published(name: str, preprocessing: Any = None) -> VisionModel:
    from torchvision.models import get_weight

    try:
        weights = get_weight(name)
    except (KeyError, ValueError, AttributeError) as error:
        raise WeightsError(f"{name}: torchvision has no weights by this name") from error
    kept = home() / "downloads" / Path(weights.url).name
    if offline() and not kept.exists():
        raise WeightsError(f"{name}: not downloaded, offline mode is on; pass a local file instead")
    try:
        state = weights.get_state_dict(model_dir=str(kept.parent), progress=False, check_hash=True, weights_only=True)
    except OSError as error:
        reason = (
            f"no network: {error.reason}" if isinstance(error, URLError) else error.strerror or type(error).__name__
        )
        raise WeightsError(f"{name}: download failed ({reason}); pass a local file instead") from error
    except Exception as error:  # a hash that differs from the file's name; a damaged file in the cache
        kept.unlink(missing_ok=True)
        raise WeightsError(f"{name}: the download is damaged and was deleted; try again") from error
    # The weights' own evaluation transform; the second generation resizes to 232 instead of 256.
    crop, resize = weights.transforms.keywords["crop_size"], weights.transforms.keywords.get("resize_size", 256)
    published = adjusted(PREPROCESSING, {"image_size": (crop, crop), "crop_fraction": crop / resize})
    return import_classifier(state, name, preprocessing=adjusted(published, preprocessing))
