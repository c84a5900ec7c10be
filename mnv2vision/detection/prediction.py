"""From raw detections to a photo's objects."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mnv2vision.contracts import HeadInUse, Network, RawDetections, check_finite, class_names
from mnv2vision.detection.head import SSDHead
from mnv2vision.detection.postprocess import BatchDetections
from mnv2vision.predictions.detection import Detection, check_max_detections, crowded_remarks, least_scores
from mnv2vision.preprocessing import Preprocessing


def to_photos(
    batch: BatchDetections,
    preprocessing: Preprocessing,
    sizes: Sequence[tuple[int, int]],
    names: tuple[str, ...] = (),
    limit: int | None = None,
) -> list[Detection]:
    """Detections of a batch at the sizes (height, width) of the photos, of each the best ones up to `limit`."""
    boxes, scores, labels = (tensor.cpu().numpy() for tensor in batch[:3])
    found = []
    for i, (count, size) in enumerate(zip(batch.counts.tolist(), sizes, strict=True)):
        best = slice(count if limit is None else min(count, limit))
        found.append(Detection(preprocessing.to_photo(boxes[i, best], *size), scores[i, best], labels[i, best], names))
    return found


class DetectionDecoder:
    """See `contracts.Decoder`.

    Attributes:
        crowded: Photos so far on which `max_detections` left objects out.
    """

    takes_photos = False

    def __init__(
        self, head: HeadInUse, *, score_threshold: float | str = 0.3, max_detections: int | None = None
    ) -> None:
        """Set it up.

        Args:
            head: A detector's.
            score_threshold: Objects with less are dropped, 0..1; "auto": as the model recommends for each class.
            max_detections: How many objects are found on a photo at most, the best ones; None: as the model says.
        """
        assert isinstance(head.head, SSDHead)
        self.head, self.preprocessing, self.names = head.head, head.preprocessing, class_names(head.config)
        least = least_scores(score_threshold, head.config.thresholds)
        self.score_threshold = least if isinstance(least, float) else torch.from_numpy(least)
        self.limit = head.head.max_detections if max_detections is None else check_max_detections(max_detections)
        self.crowded = 0

    def __call__(self, network: Network, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Detection]:
        """The objects of each image."""
        raw = network(images)
        assert isinstance(raw, RawDetections)
        check_finite(raw.box_codes)
        check_finite(raw.class_logits)
        # One more, to see whether any are left out.
        found = self.head.detect(raw, score_threshold=self.score_threshold, max_detections=self.limit + 1)
        self.crowded += int((found.counts > self.limit).sum())
        return to_photos(found, self.preprocessing, sizes, self.names, self.limit)

    def remarks(self) -> list[str]:
        """How many photos had more objects than are found at most."""
        return crowded_remarks(self.crowded, self.limit)
