"""From logits to a photo's classes by pixel."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mnv2vision.contracts import HeadInUse, InferenceOptions, Network, check_finite, class_names
from mnv2vision.predictions.segmentation import Segmentation
from mnv2vision.segmentation.head import SegmentationHead
from mnv2vision.segmentation.inference import scores_by_pixel, sliding_window, to_masks


class SegmentationDecoder:
    """See `contracts.Decoder`."""

    def __init__(self, head: HeadInUse, *, inference: InferenceOptions | None = None) -> None:
        """Set it up.

        Args:
            head: Of a segmentation model.
            inference: Scales, flips and windows.
        """
        assert isinstance(head.head, SegmentationHead)
        self.head, self.preprocessing, self.names = head.head, head.preprocessing, class_names(head.config)
        self.inference = inference or InferenceOptions()
        self.takes_photos = self.inference.window

    def __call__(self, network: Network, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Segmentation]:
        """The mask of each image."""
        pixels = self.head.by_pixel(network)
        if not self.inference.window:
            scores = check_finite(scores_by_pixel(pixels, images, self.inference))
            masks = [mask.cpu().numpy() for mask in to_masks(scores, self.preprocessing, sizes)]
        else:
            normalize, size = self.preprocessing.normalize, self.preprocessing.image_size
            bands = [
                check_finite(scores).argmax(1).to(torch.uint8).cpu().numpy()
                for scores in sliding_window(pixels, images, size, self.inference, normalize=normalize)
            ]
            masks = list(np.concatenate(bands, axis=2 if images.shape[3] > images.shape[2] else 1))
        return [Segmentation(mask, self.names) for mask in masks]

    def remarks(self) -> list[str]:
        """Nothing is left out."""
        return []
