"""MobileNetV1 (arXiv 1704.04861, table 1)."""

from collections.abc import Iterator, Sequence

from mnv2vision.backbones.backbone import Backbone, Layer
from mnv2vision.backbones.blocks import DepthwiseSeparable
from mnv2vision.backbones.layers import Activation, ConvNormAct, Initialization, LayerOptions, Padding

# Channels and stride of the thirteen blocks; block{i} is TF-slim's Conv2d_{i + 1}_pointwise.
_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))


class MobileNetV1(Backbone):
    """Taps: `stem`, `block0` … `block12` (the pointwise outputs; the deepest has 1024 channels at width 1)."""

    final_tap = "block12"

    def __init__(
        self,
        *,
        width: float = 1.0,
        output_stride: int = 32,
        taps: Sequence[str] | None = None,
        in_channels: int = 3,
        padding: Padding = "symmetric",
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        activation: Activation = "relu6",
        initialization: Initialization = "kaiming",
    ) -> None:
        """Build the network; the arguments are those of `create_backbone`."""
        options = LayerOptions(padding, norm_eps, norm_momentum, activation)

        def channels(count: int) -> int:
            return max(8, int(count * width))  # TF-slim truncates here: nets/mobilenet_v1.py

        def layers() -> Iterator[tuple[str, Layer]]:
            current = channels(32)
            yield "stem", ConvNormAct(in_channels, current, 3, stride=2, options=options)
            for index, (count, stride) in enumerate(_BLOCKS):
                yield f"block{index}", DepthwiseSeparable(current, channels(count), stride=stride, options=options)
                current = channels(count)

        super().__init__(
            layers(),
            taps=taps,
            output_stride=output_stride,
            initialization=initialization,
            width=width,
            options=options,
        )
