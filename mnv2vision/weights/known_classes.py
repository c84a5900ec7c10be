"""Rows of the layers that tell classes apart, kept for the classes that a head and a file both know."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from mnv2vision.common.text import few
from mnv2vision.contracts import Head, ModelConfig
from mnv2vision.models.vision_model import VisionModel


@dataclass(frozen=True)
class Known:
    """What a file knows of a model's classes, where they are not the file's.

    Attributes:
        state: Values of parameters, by name; new classes have those that they had.
        lines: What was kept, and what begins anew, for people.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


def known_classes(model: VisionModel, config: ModelConfig, held: Mapping[str, Tensor]) -> Known:
    """Match the classes of each head by name.

    Args:
        model: With heads for other classes than the file's.
        config: Of the file.
        held: The file's parameters.
    """
    known = Known()
    for name, head in model.config.heads.items():
        if (theirs := config.head_like(name, head.task)) is None or head.names == (old := config.heads[theirs].names):
            continue
        common = [label for label in head.names if label in old]
        module = model.heads[name]
        assert isinstance(module, Head)
        rows = [head.names.index(label) for label in common], [old.index(label) for label in common]
        state = {} if not common else _merged(module, f"heads.{theirs}.", held, rows, (len(head.names), len(old)))
        known.state.update({f"heads.{name}.{parameter}": value for parameter, value in state.items()})
        if state:
            new = [label for label in head.names if label not in old]
            told = f"knows {len(common)} of {len(head.names)} classes: {few(common)}"
            known.lines.append(f"{told}; new: {few(new)}" if new else told)
    return known


def _merged(
    head: Head,
    prefix: str,
    held: Mapping[str, Tensor],
    rows: tuple[list[int], list[int]],
    counts: tuple[int, int],
) -> dict[str, Tensor]:
    """The class layers' parameters with the file's rows; none if the layers are others."""
    state: dict[str, Tensor] = {}
    for parameter, own in head.state_dict().items():
        if not parameter.startswith(head.class_layers):
            continue
        old = held.get(prefix + parameter)
        before = head.class_rows(parameter)
        if old is None or own.shape[1:] != old.shape[1:]:
            return {}
        if before is None:
            if own.shape != old.shape:
                return {}
            state[parameter] = old
            continue
        mine, theirs = (
            tensor.unflatten(0, (-1, before + count)) for tensor, count in zip((own, old), counts, strict=True)
        )
        if len(mine) != len(theirs):
            return {}
        merged = mine.clone()
        merged[:, :before] = theirs[:, :before]
        merged[:, [before + row for row in rows[0]]] = theirs[:, [before + row for row in rows[1]]]
        state[parameter] = merged.flatten(0, 1)
    return state
