"""From raw detections to a photo's objects."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mnv2vision.contracts import HeadInUse, InferenceOptions, Network, RawDetections, check_finite, class_names
from mnv2vision.detection.head import SSDHead
from mnv2vision.detection.postprocess import BatchDetections
from mnv2vision.detection.windows import Window, merge, windows
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


_AT_ONCE = 16
"""Windows in a batch."""


class DetectionDecoder:
    """See `contracts.Decoder`.

    Attributes:
        takes_photos: Where it looks through windows.
        crowded: Photos so far on which `max_detections` left objects out.
    """

    def __init__(
        self,
        head: HeadInUse,
        *,
        score_threshold: float | str = 0.3,
        max_detections: int | None = None,
        inference: InferenceOptions | None = None,
    ) -> None:
        """Set it up.

        Args:
            head: A detector's.
            score_threshold: Objects with less are dropped, 0..1; "auto": as the model recommends for each class.
            max_detections: How many objects are found on a photo at most, the best ones; None: as the model says.
            inference: Whether to look through windows, and their overlap.
        """
        assert isinstance(head.head, SSDHead)
        self.head, self.preprocessing, self.names = head.head, head.preprocessing, class_names(head.config)
        least = least_scores(score_threshold, head.config.thresholds)
        self.score_threshold = least if isinstance(least, float) else torch.from_numpy(least)
        self.limit = head.head.max_detections if max_detections is None else check_max_detections(max_detections)
        self.inference = inference or InferenceOptions()
        self.takes_photos = self.inference.window
        self.crowded = 0

    def __call__(self, network: Network, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Detection]:
        """The objects of each image."""
        if self.inference.window:
            return [self._through_windows(network, photo) for photo in images]
        found = self._detect(network, images)
        self.crowded += int((found.counts > self.limit).sum())
        return to_photos(found, self.preprocessing, sizes, self.names, self.limit)

    def _detect(self, network: Network, images: Tensor) -> BatchDetections:
        """The objects of normalised images, one more than the limit, to see whether any are left out."""
        raw = network(images)
        assert isinstance(raw, RawDetections)
        check_finite(raw.box_codes)
        check_finite(raw.class_logits)
        return self.head.detect(raw, score_threshold=self.score_threshold, max_detections=self.limit + 1)

    def _through_windows(self, network: Network, photo: Tensor) -> Detection:
        """The objects of a (3, H, W) uint8 photo."""
        pixels, size = photo.permute(1, 2, 0).cpu().numpy(), (photo.shape[1], photo.shape[2])
        found: list[tuple[Window, Detection]] = []
        places = list(windows(size, self.preprocessing.image_size, self.inference.overlap))
        for first in range(0, len(places), _AT_ONCE):
            some = places[first : first + _AT_ONCE]
            parts = [pixels[w.top : w.top + w.height, w.left : w.left + w.width] for w in some]
            prepared = np.stack([self.preprocessing.prepare(part) for part in parts])
            images = torch.from_numpy(prepared).permute(0, 3, 1, 2).to(photo.device)
            batch = self._detect(network, self.preprocessing.normalize(images))
            sizes = [(window.height, window.width) for window in some]
            found += zip(some, to_photos(batch, self.preprocessing, sizes, self.names), strict=True)
        merged, more = merge(found, size, self.head.nms_iou, self.limit)
        self.crowded += more
        return merged

    def remarks(self) -> list[str]:
        """How many photos had more objects than are found at most."""
        return crowded_remarks(self.crowded, self.limit)
