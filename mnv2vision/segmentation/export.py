"""A segmentation model in exported files; see `HeadExport`."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mnv2vision.contracts import Head, HeadExport, Outputs, Raw
from mnv2vision.segmentation.head import SegmentationHead


def _outputs(raw: Raw) -> Outputs:
    assert isinstance(raw, Tensor)
    return {"logits": raw}


def _fixed(head: Head, raw: Raw, image_size: tuple[int, int]) -> Outputs:
    assert isinstance(head, SegmentationHead)
    assert isinstance(raw, Tensor)
    return {"labels": head.to_pixels(raw, image_size).argmax(1).to(torch.uint8)}


def _raw(outputs: Mapping[str, Tensor], parameters: Mapping[str, object]) -> Raw:
    return outputs["logits"]


def _parameters(head: Head, raw: Raw) -> dict[str, object]:
    assert isinstance(head, SegmentationHead)
    return {"stride": head.stride, "padding": head.padding}


SEGMENTATION_EXPORT = HeadExport(_outputs, _fixed, _raw, _parameters)
