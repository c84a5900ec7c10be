"""Classification as a Lightning module."""

from mnv2vision.classification.training import ClassificationTraining
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.tasks.base import Task
from mnv2vision.tasks.options import TrainingOptions


class ClassificationTask(Task):
    """A classifier in training or evaluation."""

    def __init__(
        self,
        model: VisionModel,
        options: TrainingOptions | None = None,
        *,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
    ) -> None:
        """Set it up; see `ClassificationTraining`."""
        heads = {
            name: ClassificationTraining(head, label_smoothing=label_smoothing, mixup=mixup, cutmix=cutmix)
            for name, head in model.heads_in_use()
        }
        super().__init__(model, heads, options)
