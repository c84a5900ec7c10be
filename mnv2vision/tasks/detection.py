"""Detection as a Lightning module."""

from collections.abc import Sequence

from mnv2vision.detection.coco_evaluator import CocoEvaluator
from mnv2vision.detection.training import DetectionTraining
from mnv2vision.detection.voc_evaluator import VocEvaluator
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.tasks.base import Task
from mnv2vision.tasks.options import TrainingOptions


class DetectionTask(Task):
    """A detector in training or evaluation."""

    def __init__(
        self,
        model: VisionModel,
        evaluator: CocoEvaluator | VocEvaluator,
        options: TrainingOptions | None = None,
        *,
        classes: Sequence[int] | None = None,
        category_ids: Sequence[int] | None = None,
    ) -> None:
        """Set it up; see `DetectionTraining`."""
        heads = {
            name: DetectionTraining(head, evaluator, classes=classes, category_ids=category_ids)
            for name, head in model.heads_in_use()
        }
        super().__init__(model, heads, options)
