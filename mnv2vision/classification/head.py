"""Image classification: pooled features and a linear classifier."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from mnv2vision.backbones.layers import initialize
from mnv2vision.contracts import Features, Head, HeadKind
from mnv2vision.errors import ConfigError


class ClassificationHead(Head):
    """Global average pooling, dropout and a linear layer on one feature map (paper, table 2).

    MobileNetV3 has a hidden layer with hard-swish between the two (arXiv 1905.02244, section 5.1); with ReLU where the
    network is minimalistic.
    """

    class_layers = ("classifier.",)

    def __init__(self, features: Features, num_classes: int, *, dropout: float = 0.2) -> None:
        """Build the head.

        Args:
            features: The first is classified.
            num_classes: Number of classes.
            dropout: Probability of dropping a pooled feature during training.
        """
        super().__init__()
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise ConfigError(f"dropout={dropout!r} must be at least 0 and below 1")
        channels, hidden = features.specs[0].channels, features.hidden_channels
        self.activation = F.relu if features.options.activation == "relu" else F.hardswish
        self.hidden = nn.Linear(channels, hidden) if hidden else None
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden or channels, num_classes)
        for layer in (self.hidden, self.classifier):
            if layer is not None:
                initialize(layer, "kaiming")

    def forward(self, features: Sequence[Tensor], image_size: tuple[int, int]) -> Tensor:
        """Logits (N, num_classes)."""
        x = F.adaptive_avg_pool2d(features[0], 1).flatten(1)
        if self.hidden is not None:
            x = self.activation(self.hidden(x))
        logits: Tensor = self.classifier(self.dropout(x))
        return logits


CLASSIFICATION_HEAD = HeadKind(
    build=ClassificationHead, default_taps=lambda _: None, num_classes=1000, image_size=224, resize="crop"
)
