"""The model of all tasks: a backbone with named heads."""

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor, nn

from mnv2vision.backbones import BACKBONES, Backbone, create_backbone
from mnv2vision.contracts import Features, Head, HeadConfig, HeadInUse, ModelConfig, Raw, Taps
from mnv2vision.errors import ConfigError
from mnv2vision.models.tasks import find_task
from mnv2vision.preprocessing import Preprocessing


class VisionModel(nn.Module):
    """A backbone with named heads, and all that is needed to rebuild it and to feed it.

    Attributes:
        config: What it was built from, and is saved with.
        backbone: Returns the features that the heads stand on.
        heads: By name.
    """

    config: ModelConfig
    backbone: Backbone
    heads: nn.ModuleDict

    def __init__(self, config: ModelConfig) -> None:
        """Build it, with random weights.

        Args:
            config: `models.create.configure` makes it from the arguments of `create_model`.

        Raises:
            ConfigError: For unknown or contradictory names and values.
        """
        super().__init__()
        if config.backbone not in BACKBONES:
            raise ConfigError(f"backbone {config.backbone!r} is unknown; valid: {', '.join(BACKBONES)}")
        self.config = config
        self._taps = {name: _taps(config, head) for name, head in config.heads.items()}
        taps = tuple(dict.fromkeys(tap for taps in self._taps.values() for tap in taps))
        self.backbone = create_backbone(config.backbone, taps=taps, **config.backbone_options)
        self.heads = nn.ModuleDict()
        for name, head in config.heads.items():
            build = find_task(head.task).head.build
            self.heads[name] = build(self._features(name), head.num_classes, **head.options)

    def _features(self, name: str) -> Features:
        backbone = self.backbone
        specs = tuple(backbone.feature_specs[tap] for tap in self._taps[name])
        return Features(specs, backbone.width, backbone.options, getattr(backbone, "head_channels", None))

    def forward(self, images: Tensor) -> Raw | dict[str, Raw]:
        """Raw outputs for normalised images (N, 3, H, W).

        Returns:
            Of one head its raw output: `logits` (N, C) of classification, `RawDetections`, or `logits` (N, C, h, w) of
            segmentation at the features' size. Of several a dict of these by the heads' names. In evaluation a
            classifier's logits are divided by the temperature that the model was found to need.
        """
        features = self.backbone(images)
        size = (images.shape[-2], images.shape[-1])
        raw = {
            name: self._calibrated(name, head([features[tap] for tap in self._taps[name]], size))
            for name, head in self.heads.items()
        }
        return raw if len(raw) > 1 else next(iter(raw.values()))

    def _calibrated(self, head: str, raw: Raw) -> Raw:
        temperature = self.config.heads[head].temperature
        return raw / temperature if temperature != 1 and not self.training and isinstance(raw, Tensor) else raw

    def set_output_stride(self, output_stride: int) -> None:
        """Change it in place, between training and evaluation, say; the weights stay.

        Args:
            output_stride: 32, 16 or 8.
        """
        self.backbone.set_output_stride(output_stride)
        for name, head in self.heads.items():
            assert isinstance(head, Head)
            head.set_features(self._features(name))
        self.config = self.config.with_backbone_options(output_stride=output_stride)

    def heads_in_use(self) -> Iterator[tuple[str, HeadInUse]]:
        """The heads by name, each with what belongs to it."""
        for name, head in self.heads.items():
            assert isinstance(head, Head)
            yield name, HeadInUse(head, self.config.heads[name], self.preprocessing)

    def only(self, *names: str) -> "VisionModel":
        """A copy with some of the heads, without the layers that only the others need.

        Args:
            names: Of heads; each then answers as it does here.

        Raises:
            ConfigError: For a head that is not there.
        """
        if unknown := [name for name in names if name not in self.heads]:
            raise ConfigError(f"the model has no head {unknown[0]!r}; valid: {', '.join(self.heads)}")
        model = VisionModel(replace(self.config, heads={name: self.config.heads[name] for name in names}))
        model.load_state_dict({key: value for key, value in self.state_dict().items() if key in model.state_dict()})
        return model.to(next(self.parameters())).train(self.training)

    @property
    def preprocessing(self) -> Preprocessing:
        """How it wants its images."""
        return self.config.preprocessing

    @preprocessing.setter
    def preprocessing(self, preprocessing: Preprocessing) -> None:
        self.config = replace(self.config, preprocessing=preprocessing)

    # ---- of a model with one head; ConfigError for one with several ----

    @property
    def head(self) -> Head:
        """The only head."""
        self.config.head  # noqa: B018  # raises for several
        (head,) = self.heads.values()
        assert isinstance(head, Head)
        return head

    @property
    def task(self) -> str:
        """The task of the only head."""
        return self.config.head.task

    @property
    def num_classes(self) -> int:
        """Number of classes of the only head."""
        return self.config.head.num_classes

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by label of the only head; empty where they are not known."""
        return self.config.head.names


def _taps(config: ModelConfig, head: HeadConfig) -> tuple[str, ...]:
    if head.taps is not None:
        return head.taps
    default = find_task(head.task).head.default_taps(Taps(config.backbone, config.backbone_options, head.options))
    return default or (BACKBONES[config.backbone].final_tap,)
