"""A detector in exported files; see `HeadExport`."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mnv2vision.contracts import Head, HeadExport, Outputs, Raw, RawDetections
from mnv2vision.detection.box_coder import CENTRE_SCALE, SIZE_SCALE
from mnv2vision.detection.head import SSDHead


def _outputs(raw: Raw) -> Outputs:
    assert isinstance(raw, RawDetections)
    return {"box_codes": raw.box_codes, "class_logits": raw.class_logits}


def _fixed(head: Head, raw: Raw, image_size: tuple[int, int]) -> Outputs:
    assert isinstance(head, SSDHead)
    assert isinstance(raw, RawDetections)
    return head.detect(raw)._asdict()


def _raw(outputs: Mapping[str, Tensor], parameters: Mapping[str, object]) -> Raw:
    box_codes = outputs["box_codes"]
    anchors = torch.tensor(parameters["anchors"], dtype=torch.float32, device=box_codes.device)
    return RawDetections(box_codes, outputs["class_logits"], anchors)


def _parameters(head: Head, raw: Raw) -> dict[str, object]:
    assert isinstance(head, SSDHead)
    assert isinstance(raw, RawDetections)
    return {
        "scores": head.scores,
        "nms_iou": head.nms_iou,
        "max_detections": head.max_detections,
        "box_scales": [CENTRE_SCALE, CENTRE_SCALE, SIZE_SCALE, SIZE_SCALE],
        "anchors": raw.anchors.tolist(),
    }


DETECTION_EXPORT = HeadExport(_outputs, _fixed, _raw, _parameters)
