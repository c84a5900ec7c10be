"""All that the floors above know of classification."""

from mnv2vision.classification.export import CLASSIFICATION_EXPORT
from mnv2vision.classification.head import CLASSIFICATION_HEAD
from mnv2vision.classification.prediction import ClassificationDecoder
from mnv2vision.contracts import HeadTraining, TaskKind


def _training() -> type[HeadTraining]:
    from mnv2vision.classification.training import ClassificationTraining

    return ClassificationTraining


CLASSIFICATION = TaskKind("label", CLASSIFICATION_HEAD, ClassificationDecoder, _training, CLASSIFICATION_EXPORT)
