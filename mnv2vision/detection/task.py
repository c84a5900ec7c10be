"""All that the floors above know of detection."""

from mnv2vision.contracts import HeadTraining, TaskKind
from mnv2vision.detection.export import DETECTION_EXPORT
from mnv2vision.detection.head import DETECTION_HEAD
from mnv2vision.detection.prediction import DetectionDecoder


def _training() -> type[HeadTraining]:
    from mnv2vision.detection.training import DetectionTraining

    return DetectionTraining


DETECTION = TaskKind("boxes", DETECTION_HEAD, DetectionDecoder, _training, DETECTION_EXPORT)
