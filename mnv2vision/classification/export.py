"""A classifier in exported files; see `HeadExport`."""

from collections.abc import Mapping

from torch import Tensor

from mnv2vision.contracts import Head, HeadExport, Outputs, Raw


def _outputs(raw: Raw) -> Outputs:
    assert isinstance(raw, Tensor)
    return {"logits": raw}


def _fixed(head: Head, raw: Raw, image_size: tuple[int, int]) -> Outputs:
    assert isinstance(raw, Tensor)
    return {"probabilities": raw.softmax(1)}


def _raw(outputs: Mapping[str, Tensor], parameters: Mapping[str, object]) -> Raw:
    return outputs["logits"]


def _parameters(head: Head, raw: Raw) -> dict[str, object]:
    return {"scores": "softmax"}


CLASSIFICATION_EXPORT = HeadExport(_outputs, _fixed, _raw, _parameters)
