"""Image classification: pooled features and a linear classifier."""

from torch import Tensor, nn
from torch.nn import functional as F

from mnv2vision.backbones import Backbone
from mnv2vision.backbones.layers import initialize
from mnv2vision.errors import ConfigError
from mnv2vision.vision_model import VisionModel


class Classifier(VisionModel):
    """Global average pooling, dropout and a linear layer on the backbone's deepest features (paper, table 2).

    MobileNetV3 has a hidden layer with hard-swish between the two (arXiv 1905.02244, section 5.1); with ReLU where the
    network is minimalistic.
    """

    default_num_classes = 1000
    default_image_size = 224
    default_resize = "crop"
    class_layers = ("classifier.",)

    def __init__(self, backbone: Backbone, *, num_classes: int, dropout: float = 0.2) -> None:
        """Put a classifier on a backbone.

        Args:
            backbone: Its first tap is classified.
            num_classes: Number of classes.
            dropout: Probability of dropping a pooled feature during training.
        """
        super().__init__()
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise ConfigError(f"dropout={dropout!r} is no probability below 1")
        self.backbone = backbone
        channels = backbone.feature_specs[backbone.taps[0]].channels
        hidden = getattr(backbone, "head_channels", None)
        self.hidden = nn.Linear(channels, hidden) if hidden else None
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden or channels, num_classes)
        for layer in (self.hidden, self.classifier):
            if layer is not None:
                initialize(layer, "kaiming")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes) of normalised images (N, 3, H, W)."""
        features = self.backbone(images)[self.backbone.taps[0]]
        x = F.adaptive_avg_pool2d(features, 1).flatten(1)
        if self.hidden is not None:
            x = (F.relu if self.backbone.options.activation == "relu" else F.hardswish)(self.hidden(x))
        logits: Tensor = self.classifier(self.dropout(x))
        return logits
