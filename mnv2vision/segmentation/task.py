"""All that the floors above know of segmentation."""

from mnv2vision.contracts import HeadTraining, TaskKind
from mnv2vision.segmentation.export import SEGMENTATION_EXPORT
from mnv2vision.segmentation.head import SEGMENTATION_HEAD
from mnv2vision.segmentation.prediction import SegmentationDecoder


def _training() -> type[HeadTraining]:
    from mnv2vision.segmentation.training import SegmentationTraining

    return SegmentationTraining


SEGMENTATION = TaskKind("mask", SEGMENTATION_HEAD, SegmentationDecoder, _training, SEGMENTATION_EXPORT)
