"""From logits to a photo's class."""

from collections.abc import Sequence

from torch import Tensor

from mnv2vision.contracts import HeadInUse, Network, check_finite, class_names
from mnv2vision.predictions.classification import Classification


class ClassificationDecoder:
    """See `contracts.Decoder`."""

    takes_photos = False

    def __init__(self, head: HeadInUse) -> None:
        self.names = class_names(head.config)

    def __call__(self, network: Network, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Classification]:
        """Probabilities of each image."""
        logits = network(images)
        assert isinstance(logits, Tensor)
        scores = check_finite(logits).softmax(1).cpu().numpy()
        return [Classification(of_image, self.names) for of_image in scores]

    def remarks(self) -> list[str]:
        """Nothing is left out."""
        return []
