"""Segmentation as a Lightning module."""

from collections.abc import Sequence

from mnv2vision.contracts import InferenceOptions
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.segmentation.evaluator import SegmentationEvaluator
from mnv2vision.segmentation.training import SegmentationTraining
from mnv2vision.tasks.base import Task
from mnv2vision.tasks.options import TrainingOptions


class SegmentationTask(Task):
    """A segmentation model in training or evaluation."""

    def __init__(
        self,
        model: VisionModel,
        evaluator: SegmentationEvaluator,
        options: TrainingOptions | None = None,
        *,
        classes: Sequence[int] | None = None,
        inference: InferenceOptions | None = None,
        class_weights: Sequence[float] | None = None,
        hardest: float = 1.0,
    ) -> None:
        """Set it up; see `SegmentationTraining`."""
        heads = {
            name: SegmentationTraining(
                head,
                evaluator,
                classes=classes,
                inference=inference,
                class_weights=class_weights,
                hardest=hardest,
            )
            for name, head in model.heads_in_use()
        }
        super().__init__(model, heads, options)
