"""The interface of all backbones: named taps, known feature specifications, a changeable output stride."""

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, NamedTuple, Self

from torch import Tensor, nn

from mnv2vision.backbones.blocks import DepthwiseSeparable, InvertedResidual
from mnv2vision.backbones.layers import ConvNormAct, Initialization, LayerOptions, check_choice, initialize
from mnv2vision.errors import ConfigError

Layer = ConvNormAct | DepthwiseSeparable | InvertedResidual


class FeatureSpec(NamedTuple):
    """A feature map's channels, and its stride: the input pixels per cell."""

    channels: int
    stride: int


class Backbone(nn.Module):
    """A chain of named layers that returns the features at its taps.

    The layers are the module's children, so a parameter's name begins with the tap's: `block13.expand.conv.weight`.

    Attributes:
        taps: Names of the features that `forward` returns, in order.
        feature_specs: Channels and stride of each tap, known without running the network.
        output_stride: Largest stride of any layer.
        width: Channel multiplier; heads that scale with it read it here.
        options: Options of its layers, shared by heads.
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
        """Build the layers that the taps need.

        Args:
            layers: Names and layers in order, made lazily.
            taps: See `Backbone.taps`; the final one if None.
            output_stride: 32, 16 or 8.
            initialization: See `layers.initialize`.
            width: See `Backbone.width`.
            options: See `Backbone.options`.

        Raises:
            ConfigError: For an unknown tap, listing the valid ones.
        """
        super().__init__()
        self.width = width
        self.options = options
        self._frozen = 0
        self._build(layers, taps if taps is not None else (self.final_tap,))
        initialize(self, initialization)
        self.set_output_stride(output_stride)

    def _build(self, layers: Iterable[tuple[str, Layer]], taps: Sequence[str]) -> None:
        """Add the layers that the taps need."""
        if isinstance(taps, str):
            raise ConfigError(f"taps={taps!r} must be a list of names, such as [{taps}]")
        if not taps:
            raise ConfigError("taps is empty; give at least one, such as 'last'")
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
            raise ConfigError(f"unknown taps {sorted(missing)}; valid: {', '.join(known)}")
        self.taps = tuple(taps)

    def set_taps(self, taps: Sequence[str]) -> None:
        """Change the taps in place; the weights stay, and layers after the deepest tap are dropped.

        Args:
            taps: See `Backbone.taps`; only of existing layers.

        Raises:
            ConfigError: For an unknown tap, listing the valid ones; the backbone stays unchanged.
        """
        layers = list(self.layers())
        try:
            self._modules.clear()
            self._build(layers, taps)
        except ConfigError:
            self._modules.update(layers)
            raise
        self.set_output_stride(self.output_stride)

    def also_give(self, taps: Sequence[str]) -> dict[str, FeatureSpec]:
        """Give further features, in place; no layer is dropped.

        Args:
            taps: Of existing layers.

        Returns:
            What these features are.

        Raises:
            ConfigError: For an unknown tap, listing the valid ones.
        """
        names = [tap for name, layer in self.layers() for tap in _taps_of(name, layer)]
        if unknown := sorted(set(taps) - set(names)):
            raise ConfigError(f"unknown taps {unknown}; valid: {', '.join(names)}")
        self.taps = tuple(dict.fromkeys((*self.taps, *taps)))
        self.set_output_stride(self.output_stride)
        return {tap: self.feature_specs[tap] for tap in taps}

    def set_output_stride(self, output_stride: int) -> None:
        """Trade stride for dilation in place; the weights stay.

        Once the output stride is reached, further strides become dilation of the layers after them; the layer that
        loses its stride keeps the previous dilation (TF-slim: nets/mobilenet/mobilenet.py).

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

    @property
    def shallowest_tap(self) -> str:
        """The tap that all others lie behind."""
        names = [place for name, _ in self.layers() for place in (f"{name}.expand", name)]
        return min(self.taps, key=names.index)

    def layers(self) -> Iterator[tuple[str, Layer]]:
        """Names and layers, from input to output."""
        for name, layer in self.named_children():
            assert isinstance(layer, Layer)
            yield name, layer

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features of normalised images (N, in_channels, H, W), as {tap: (N, C, ceil(H / s), ceil(W / s))}."""
        features: dict[str, Tensor] = {}
        x = images
        filtered: Tensor | None = None  # of the previous block, if shortcuts connect expansions
        for name, layer in self._modules.items():
            assert layer is not None
            if isinstance(layer, InvertedResidual):
                x, filtered = self._inverted_residual(name, layer, x, filtered, features)
            else:
                x = layer(x)
            if name in self.taps:
                features[name] = x
        return {tap: features[tap] for tap in self.taps}

    # A separate method, so that no local variable keeps a wide tensor alive while the next block runs.
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
        del expanded  # the widest tensor must be freed before the projection runs
        return layer.bottleneck(filtered, x), filtered if layer.feeds_next_expansion else None

    def freeze(self, blocks: int) -> None:
        """Freeze the stem and the first `blocks` blocks: no gradients, and batch norm keeps its running statistics.

        Args:
            blocks: How many; 0 unfreezes all layers, and a number beyond the last block freezes the whole backbone.
        """
        self._frozen = blocks + 1 if blocks > 0 else 0
        for index, (_, layer) in enumerate(self.layers()):
            layer.requires_grad_(index >= self._frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set training or inference mode; frozen layers stay in inference mode."""
        super().train(mode)
        for index, (_, layer) in enumerate(self.layers()):
            if index < self._frozen:
                layer.eval()
        return self


def _taps_of(name: str, layer: Layer) -> Iterator[str]:
    """What can be taken of a layer."""
    if isinstance(layer, InvertedResidual):
        if layer.expand is not None:
            yield f"{name}.expand"
        if layer.expansion_only:
            return
    yield name
