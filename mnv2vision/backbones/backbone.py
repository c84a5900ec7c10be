"""The contract of all backbones: named taps, feature specifications known in advance, a changeable output stride."""

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, NamedTuple, Self

from torch import Tensor, nn

from mnv2vision.backbones.blocks import DepthwiseSeparable, InvertedResidual
from mnv2vision.backbones.layers import ConvNormAct, Initialization, LayerOptions, check_choice, initialize
from mnv2vision.errors import ConfigError

Layer = ConvNormAct | DepthwiseSeparable | InvertedResidual


class FeatureSpec(NamedTuple):
    """A feature map: its channels, and how many input pixels one of its cells spans."""

    channels: int
    stride: int


class Backbone(nn.Module):
    """A chain of named layers that returns the features at its taps.

    The layers are the module's children, so a parameter's name begins with the tap's: `block13.expand.conv.weight`.

    Attributes:
        taps: Names of the features `forward` returns, in the order asked for.
        feature_specs: Channels and stride of each tap, known without running the network.
        output_stride: Input pixels per cell of the deepest features at most.
        width: Channel multiplier; heads whose channels follow it read it here.
        options: Conventions of its layers, which heads share.
    """

    final_tap: ClassVar[str]
    """The deepest tap; the default."""

    taps: tuple[str, ...]
    feature_specs: dict[str, FeatureSpec]
    output_stride: int
    width: float
    options: LayerOptions

    def __init__(
        self,
        layers: Iterator[tuple[str, Layer]],
        *,
        taps: Sequence[str] | None,
        output_stride: int,
        initialization: Initialization,
        width: float,
        options: LayerOptions,
    ) -> None:
        """Build as many layers as the taps need.

        Args:
            layers: Names and layers in order, made lazily.
            taps: See `Backbone.taps`; the final one if None.
            output_stride: 32, 16 or 8.
            initialization: See `layers.initialize`.
            width: See `Backbone.width`.
            options: See `Backbone.options`.

        Raises:
            ConfigError: For an unknown tap, with the list of those there are.
        """
        super().__init__()
        self.width = width
        self.options = options
        self._frozen = 0
        self._build(layers, taps if taps is not None else (self.final_tap,))
        initialize(self, initialization)
        self.set_output_stride(output_stride)

    def _build(self, layers: Iterable[tuple[str, Layer]], taps: Sequence[str]) -> None:
        """Take as many of the layers as the taps need."""
        if isinstance(taps, str):
            raise ConfigError(f"taps={taps!r} is one name; taps is a list of names, such as [{taps}]")
        if not taps:
            raise ConfigError("taps is empty; name at least one feature map, such as 'last'")
        known: list[str] = []
        missing = set(taps)
        for name, layer in layers:
            self.add_module(name, layer)
            if isinstance(layer, InvertedResidual) and layer.expand is not None:
                known.append(f"{name}.expand")
                missing.discard(known[-1])
                if not missing and not layer.expansion_only:
                    layer.keep_expansion_only()
                if layer.expansion_only:
                    break
            known.append(name)
            missing.discard(name)
            if not missing:
                break
        if missing:
            raise ConfigError(f"unknown taps {sorted(missing)}; this backbone has {', '.join(known)}")
        self.taps = tuple(taps)

    def set_taps(self, taps: Sequence[str]) -> None:
        """Return other features, in place; the weights stay, and layers behind the deepest tap are dropped.

        Args:
            taps: See `Backbone.taps`; of the layers that are there.

        Raises:
            ConfigError: For a tap that is not there, with the list of those that are; the backbone stays as it was.
        """
        layers = list(self.layers())
        try:
            self._modules.clear()
            self._build(layers, taps)
        except ConfigError:
            self._modules.update(layers)
            raise
        self.set_output_stride(self.output_stride)

    def set_output_stride(self, output_stride: int) -> None:
        """Trade stride for dilation in place; the weights stay.

        Where the output stride is reached, a further stride becomes dilation of the layers behind it; the layer
        that loses its stride still uses the previous dilation (TF-slim: nets/mobilenet/mobilenet.py).

        Args:
            output_stride: 32, 16 or 8.
        """
        check_choice("output_stride", output_stride, (32, 16, 8))
        self.output_stride = output_stride
        specs: dict[str, FeatureSpec] = {}
        current = dilation = 1
        for name, layer in self.layers():
            if isinstance(layer, InvertedResidual):
                specs[f"{name}.expand"] = FeatureSpec(layer.hidden_channels, current)
                if layer.expansion_only:
                    break
            if current == output_stride:
                layer.set_stride(1, dilation)
                dilation *= layer.stride
            else:
                layer.set_stride(layer.stride, 1)
                current *= layer.stride
            specs[name] = FeatureSpec(layer.out_channels, current)
        self.feature_specs = {tap: specs[tap] for tap in self.taps}

    def layers(self) -> Iterator[tuple[str, Layer]]:
        """Names and layers, from the image on."""
        for name, layer in self.named_children():
            assert isinstance(layer, Layer)
            yield name, layer

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features of normalised images (N, in_channels, H, W), as {tap: (N, C, ceil(H / s), ceil(W / s))}."""
        features: dict[str, Tensor] = {}
        x = images
        filtered: Tensor | None = None  # of the block before, where residuals run between expansions
        for name, layer in self._modules.items():
            assert layer is not None
            if isinstance(layer, InvertedResidual):
                x, filtered = self._inverted_residual(name, layer, x, filtered, features)
            else:
                x = layer(x)
            if name in self.taps:
                features[name] = x
        return {tap: features[tap] for tap in self.taps}

    # A method of its own, so that no wide tensor stays alive in a local variable while the next block runs.
    def _inverted_residual(
        self, name: str, layer: InvertedResidual, x: Tensor, filtered: Tensor | None, features: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        expanded = layer.expansion(x)
        if filtered is not None:
            expanded = expanded + filtered
        if f"{name}.expand" in self.taps:
            features[f"{name}.expand"] = expanded
            if layer.expansion_only:
                return x, None
        filtered = layer.filtered(expanded)
        del expanded  # the widest tensor of all must not outlive the filter, while the projection runs
        return layer.bottleneck(filtered, x), filtered if layer.feeds_next_expansion else None

    def freeze(self, blocks: int) -> None:
        """Fix the stem and the first `blocks` blocks: no gradients, and batch norm keeps its running statistics.

        Args:
            blocks: How many; 0 frees all layers, and a number beyond the last block fixes the whole backbone.
        """
        self._frozen = blocks + 1 if blocks > 0 else 0
        for index, (_, layer) in enumerate(self.layers()):
            layer.requires_grad_(index >= self._frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Switch between training and inference; frozen layers stay in inference."""
        super().train(mode)
        for index, (_, layer) in enumerate(self.layers()):
            if index < self._frozen:
                layer.eval()
        return self
