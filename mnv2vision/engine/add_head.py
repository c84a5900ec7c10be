"""A head added to a finished model, which stays as it is: `train add_to=`."""

import copy
import logging
from collections.abc import Mapping

from mnv2vision.config.options import values
from mnv2vision.config.schema import Train
from mnv2vision.errors import ConfigError
from mnv2vision.models.create import configure
from mnv2vision.models.join import join
from mnv2vision.models.vision_model import VisionModel
from mnv2vision.weights import registry

log = logging.getLogger(__name__)


class Addition:
    """A model that gets a head more.

    Attributes:
        name: Of the new head.
        frozen: How many blocks of the backbone stay as they are: all that the model has.
    """

    frozen = 0

    def __init__(self, config: Train) -> None:
        """Read the model.

        Args:
            config: Of the command `train`, with `add_to`.

        Raises:
            ConfigError: For options that would change what stays, or a name that the model has.
            WeightsError: For a model that cannot be read.
        """
        self._source = str(config.add_to)
        self._old = registry.load(self._source)
        self._task = config.task
        self.name = config.add_as or config.task
        if config.task not in ("classification", "detection", "segmentation"):
            raise ConfigError(f"add_to={self._source}: adds one head: give its task=, not task={config.task}")
        if self.name in self._old.heads:
            raise ConfigError(
                f"add_to={self._source}: it has a head {self.name}; give the new one a name: add_as=<name>"
            )
        for key, wanted in (("init_from", config.init_from), ("freeze", config.freeze), ("quantize", config.quantize)):
            if wanted:
                raise ConfigError(f"{key}={wanted}: add_to trains the head alone, on the backbone as it is")
        self._check_kept(config)

    def _check_kept(self, config: Train) -> None:
        """Raise ConfigError for options of backbone or preprocessing that are not the model's own."""
        held = self._old.config
        own: dict[str, object] = {"padding": "symmetric", "depth": 1.0, "width": 1.0, **held.backbone_options}
        if config.backbone["name"] != held.backbone:
            raise ConfigError(f"backbone={config.backbone['name']}, but {self._source} holds {held.backbone}")
        for key, value in config.backbone.items():
            if key != "name" and value is not None and own.get(key, value) != value:
                raise ConfigError(f"backbone.{key}={value}, but {self._source} has {own[key]}, and keeps it")
        kept = held.preprocessing.to_dict()
        given = {f"preprocessing.{key}": (value, kept[key]) for key, value in values(config.preprocessing).items()}
        given["model.image_size"] = (config.model.image_size, kept["image_size"])
        for key, (value, theirs) in given.items():
            if value is not None and _comparable(value, key) != _comparable(theirs, key):
                raise ConfigError(f"{key}={value}, but {self._source} has {theirs}, and keeps it")

    def model(self, config: Train, names: tuple[str, ...]) -> VisionModel:
        """The backbone with the new head alone.

        Args:
            config: Of the command.
            names: Class names of the new head.
        """
        held = self._old.config
        head = {key: value for key, value in config.model.more.items() if value is not None}
        heads = {self.name: {"task": self._task, "names": names, **head}}
        model = VisionModel(configure(heads, held.backbone, held.backbone_options, preprocessing=held.preprocessing))
        known = {key: value for key, value in self._old.state_dict().items() if key.startswith("backbone.")}
        wanted = model.state_dict()
        model.load_state_dict({key: value for key, value in known.items() if key in wanted}, strict=False)
        layers = dict(model.backbone.layers())
        new = [name for name in layers if any(key not in known for key in _of_layer(wanted, name))]
        parted = [name for name in new if any(key in known for key in _of_layer(wanted, name))]
        if parted:
            raise ConfigError(
                f"add_to={self._source}: has half of {parted[0]}, which the new head needs whole: give it other taps"
            )
        self.frozen = len(layers) - len(new) - 1 if new else len(layers)
        log.info(
            "add_to: %s keeps its backbone and its heads (%s); new: %s",
            self._source,
            ", ".join(self._old.heads),
            ", ".join([*(f"backbone.{name}" for name in new), f"heads.{self.name}"]),
        )
        return model

    def joined(self, model: VisionModel) -> VisionModel:
        """The old model with the new head.

        Args:
            model: What `Addition.model` gave, trained.
        """
        old = {name: self._old.only(name) for name in self._old.heads}
        return join({**old, self.name: copy.deepcopy(model).cpu()})


def _comparable(value: object, key: str) -> object:
    if key == "model.image_size" and isinstance(value, int):
        return [value, value]
    return list(value) if isinstance(value, list | tuple) else value


def _of_layer(state: Mapping[str, object], layer: str) -> list[str]:
    return [key for key in state if key.startswith(f"backbone.{layer}.")]
