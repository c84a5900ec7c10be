"""Every configuration composes, and what it composes to can be built."""

import inspect
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import mnv2vision as mv
from mnv2vision.backbones import BACKBONES
from mnv2vision.config.backbones import BACKBONES as SCHEMAS
from mnv2vision.config.commands import COMMANDS, command_options
from mnv2vision.config.compose import _composed, config_folder, groups, load_config
from mnv2vision.config.datasets import DATASETS
from mnv2vision.config.help import options_page
from mnv2vision.config.named import add_named, head_tasks
from mnv2vision.config.options import options, values
from mnv2vision.config.recipe_file import chosen_groups, read
from mnv2vision.config.schema import Train
from mnv2vision.data.augment.classification import EvaluationTransform
from mnv2vision.data.formats.shapes import Shapes
from mnv2vision.data.loader import DataModule
from mnv2vision.engine.initial import new_model
from mnv2vision.engine.parts import DataPart, task_parts
from mnv2vision.engine.train import augmentation, head_settings, training_options
from mnv2vision.errors import ConfigError
from mnv2vision.models.tasks import TASKS
from mnv2vision.tasks.base import Task
from mnv2vision.training.optim import build_optimizer, schedule

ROOT = Path(__file__).parents[2]
CHOICES = groups("train")
RECIPES = ["null", *CHOICES["recipe"]]
RECIPE_FILES = sorted(
    path.relative_to(config_folder() / "recipe").with_suffix("").as_posix()
    for path in (config_folder() / "recipe").rglob("*.yaml")
)


def composed(command: str, arguments: Sequence[str]) -> dict[str, Any]:
    """A command's configuration as plain data."""
    return values(load_config(COMMANDS[command].schema, arguments))


def files() -> list[str]:
    return sorted(path.relative_to(config_folder()).as_posix() for path in config_folder().rglob("*.yaml"))


def test_the_groups() -> None:
    assert set(CHOICES) == {"task", "dataset", "backbone", "recipe"}
    assert sorted(path.stem for path in (config_folder() / "recipe/shapes").iterdir()) == CHOICES["task"]
    assert set(groups("eval")) == {"dataset"}
    assert groups("predict") == groups("convert") == {}
    assert CHOICES["backbone"] == sorted(BACKBONES)
    assert CHOICES["dataset"] == ["coco", "folder", "imagenet", "shapes", "voc", "yolo"]


def model_of(config: Train, names: tuple[str, ...]) -> Any:
    """The model of a run on data of these classes."""
    tasks = head_tasks(config.task, config.heads)
    return new_model(config, tasks, dict.fromkeys(tasks, names))


class Three(Shapes):
    """A source of three classes."""

    names = mask_names = ("ant", "bee", "wasp")

    def __init__(self) -> None:
        super().__init__("val", 4, image_size=48)


def build_all(config: Train) -> None:
    """Everything a training run makes of its configuration, but the training."""
    with torch.device("meta"):
        model = model_of(replace(config, init_from=None), ("ant", "bee", "wasp"))
    assert model.config.backbone == config.backbone["name"]
    # No key is left over that nobody reads: the functions refuse what they do not know.
    given = {key for key, value in {**config.backbone, **values(config.model)}.items() if value is not None}
    tasks = head_tasks(config.task, config.heads)
    if config.task != "joint":
        assert given - {"name", "image_size", "num_classes"} <= set(model.config.arguments)
    source = Three()
    transform = augmentation(config, tasks, model.preprocessing)
    DataModule(
        (source, transform),
        (source, EvaluationTransform(model.preprocessing)),
        **values(config.loader),
        on_error=config.data.on_error,
    )
    options = training_options(config)
    part = DataPart("", config.dataset, {name: TASKS[task].target for name, task in tasks.items()}, source, source)
    Task(model, task_parts([part], model, head_settings(config, tasks), training=True), options)
    optimizer = {key: value for key, value in options.optimizer.items() if key != "reference_batch"}
    build_optimizer(model, **optimizer)
    factor = schedule(total_steps=100, steps_per_epoch=10, **options.schedule)
    assert all(0 <= factor(step) <= 1 for step in range(101))


OF_ALL_TASKS = ("null", "shapes", "qat")
OWN_TASK = {
    recipe: chosen_groups(read(str(config_folder() / f"recipe/{recipe}.yaml")))["task"]
    for recipe in RECIPES
    if recipe not in OF_ALL_TASKS
}
PAIRS = [*OWN_TASK.items(), *((recipe, task) for recipe in OF_ALL_TASKS for task in CHOICES["task"])]


@pytest.mark.parametrize(("recipe", "own"), OWN_TASK.items())
def test_a_recipe_is_for_its_task(recipe: str, own: str) -> None:
    for task in {*CHOICES["task"]} - {own}:
        with pytest.raises(ConfigError, match=f"recipe={recipe} is for task={own}"):
            load_config(Train, [f"task={task}", f"recipe={recipe}"])


@pytest.mark.slow
@pytest.mark.parametrize("backbone", CHOICES["backbone"])
@pytest.mark.parametrize(("recipe", "task"), PAIRS)
def test_every_recipe_with_every_backbone(recipe: str, task: str, backbone: str) -> None:
    config = load_config(Train, [f"task={task}", f"recipe={recipe}", f"backbone={backbone}"])
    assert config.task == task
    assert config.backbone["name"] == backbone
    build_all(config)


@pytest.mark.parametrize("dataset", CHOICES["dataset"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_with_every_data_set(recipe: str, dataset: str) -> None:
    config = load_config(Train, [f"recipe={recipe}", f"dataset={dataset}"])
    assert config.dataset["name"] == dataset
    build_all(config)


@pytest.mark.parametrize("command", COMMANDS)
def test_defaults(command: str) -> None:
    config = composed(command, [])
    assert config == yaml.safe_load(yaml.safe_dump(config))  # plain data
    own = {option.key: option for option in options(COMMANDS[command].schema)}
    assert own.keys() <= {*leaves(config)}
    for example in COMMANDS[command].examples:
        for key, _, value in (item.partition("=") for item in example.split()):
            known = own.keys() | ({option.key for option in command_options("train")} if command == "tune" else set())
            assert not value or key in known or key.partition(".")[0] in {*COMMANDS[command].groups, "dataset"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_has_a_kind_that_takes_its_default_and_a_line_of_help(command: str) -> None:
    kinds: dict[str, Any] = {}
    for option in command_options(command):
        assert kinds.setdefault(option.key, option.kind) == option.kind, option.key  # whatever is chosen of the groups
        assert option.kind.read(option.default) == option.default
        assert option.help
        assert "\n" not in option.help
    choices = groups(command)
    for task in choices.get("task", [None]):
        for dataset in choices.get("dataset", [None]):
            for backbone in choices.get("backbone", [None]):
                chosen = {"task": task, "dataset": dataset, "backbone": backbone}
                config = composed(command, [f"{key}={value}" for key, value in chosen.items() if value])
                named = add_named(OmegaConf.create(config), [])
                assert [key for key in leaves(config) if key not in kinds | named] == []


def test_the_page_of_options_is_up_to_date() -> None:
    page = (ROOT / "docs/options.md").read_text(encoding="utf-8")
    assert page == options_page(), "run: python -m mnv2vision.config.help > docs/options.md"


def test_hydra_is_left_as_it_was() -> None:
    """A program around this one may use it."""
    load_config(Train, [])
    store = ConfigStore.instance()
    store.store("train", {"mine": 1})
    store.store("voc", {"mine": 2}, group="dataset")
    before = dict(store.repo)
    _composed.cache_clear()
    load_config(Train, ["dataset=voc"])
    assert store.repo == before
    assert not GlobalHydra.instance().is_initialized()
    for place in ("train.yaml", "dataset"):
        del store.repo[place]


def test_an_input_with_two_sides() -> None:
    for command in ("train", "eval"):
        assert composed(command, ["model.image_size=[96,128]"])["model"]["image_size"] == [96, 128]
        assert composed(command, ["model.image_size=96"])["model"]["image_size"] == 96
    config = load_config(Train, ["model.image_size=[96,128]", "augmentation.image_size=[64,80]"])
    model = model_of(config, ("ant", "bee"))
    assert model.preprocessing.image_size == (96, 128)
    assert config.augmentation["image_size"] == [64, 80]


def test_whole_numbers_for_numbers_are_numbers() -> None:
    """Augmentation's libraries take a float for an alpha, and nothing else."""
    config = load_config(Train, ["augmentation.cutmix=2", "augmentation.mixup=1", "ema.decay=0"])
    build_all(config)
    assert isinstance(config.augmentation["cutmix"], float)


def test_the_keys_of_the_design_are_there() -> None:
    """What users type (the design's section 3) stays."""
    config = composed("train", ["dataset=imagenet"])
    typed = """task dataset.root dataset.train_split dataset.val_split dataset.classes backbone.width model.image_size
        model.num_classes init_from resume run_dir seed trainer.devices optimizer.lr loader.batch_size loader.workers"""
    for key in re.findall(r"[\w.]+", typed):
        section: Any = config
        for part in key.split("."):
            assert part in section, key
            section = section[part]
    assert {"task", "checkpoint", "run_dir", "loader"} <= set(composed("eval", []))


def leaves(config: Any, prefix: str = "") -> list[str]:
    if not isinstance(config, dict):
        return [prefix]
    return [name for key, value in config.items() for name in leaves(value, f"{prefix}.{key}" if prefix else str(key))]


@pytest.mark.parametrize("recipe", RECIPE_FILES)
def test_a_recipe_sets_only_what_there_is(recipe: str) -> None:
    """A misspelt key in a recipe would be added in silence, and mean nothing."""
    own = yaml.safe_load((config_folder() / f"recipe/{recipe}.yaml").read_text())
    name, _, task = recipe.partition("/")
    defaults = own.pop("defaults", [])
    chosen = [f"{key.removeprefix('override /')}={value}" for item in defaults for key, value in item.items()]
    chosen += [f"task={task}"] if task else []
    known = set(leaves(composed("train", [*chosen, "recipe=null"])))
    # augmentation.crop_scale and the like are lists: leaves as they are.
    assert [key for key in leaves(own) if key not in known] == []
    resolved = composed("train", [f"recipe={name}", *([f"task={task}"] if task else [])])
    for key in leaves(own):
        value: Any = own
        ours: Any = resolved
        for part in key.split("."):
            value, ours = value[part], ours[part]
        assert ours == value, key


@pytest.mark.parametrize("dataset", CHOICES["dataset"])
def test_a_data_set_sets_its_own_section_alone(dataset: str) -> None:
    assert load_config(Train, [f"dataset={dataset}"]).dataset == values(DATASETS[dataset]())


@pytest.mark.parametrize("recipe", RECIPE_FILES)
def test_the_header_of_a_recipe(recipe: str) -> None:
    """A command, the figure to expect, and on what hardware in how long."""
    text = (config_folder() / f"recipe/{recipe}.yaml").read_text()
    header = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    command = re.search(r"#   mnv2vision train (.*)", header)
    assert command is not None
    given = [item for item in command[1].split() if "<" not in item and not item.startswith(("with", "train/", "val/"))]
    arguments = [item for item in given if "=" in item and not item.startswith(("init_from", "dataset.root"))]
    assert f"recipe={recipe.partition('/')[0]}" in arguments
    load_config(Train, arguments)
    assert re.search(r"(Published|Expected).*(\d\.?\d* %|0\.\d+)", header), "the figure"
    assert re.search(r"(CPU|GPU|cores)", header), "the hardware"
    assert re.search(r"(seconds|minutes|hours|days)", header), "the time"


@pytest.mark.parametrize("backbone", CHOICES["backbone"])
def test_the_options_of_a_backbone_are_those_of_its_class(backbone: str) -> None:
    own = values(SCHEMAS[backbone]())
    parameters = set(inspect.signature(BACKBONES[backbone]).parameters)
    assert set(own) - {"name"} == parameters - {"taps", "in_channels"}


def test_what_is_left_open_is_the_librarys(tmp_path: Path) -> None:
    config = load_config(Train, ["dataset=imagenet", "init_from=none"])
    with torch.device("meta"):
        ours = model_of(config, ("ant", "bee"))
        theirs = mv.create_model("classification", names=("ant", "bee"))
    assert ours.preprocessing == theirs.preprocessing
    assert [tuple(p.shape) for p in ours.parameters()] == [tuple(p.shape) for p in theirs.parameters()]


def test_what_is_left_open_comes_from_the_weights(tmp_path: Path) -> None:
    start = mv.create_model(
        "classification",
        width=0.35,
        padding="tf",
        names=("x", "y", "z"),
        preprocessing=mv.Preprocessing(image_size=(64, 64), mean=(0.5, 0.5, 0.5)),
    )
    mv.save(start, tmp_path / "start.safetensors")
    common = ["dataset=imagenet", "recipe=null", f"init_from={tmp_path / 'start.safetensors'}"]
    model = model_of(load_config(Train, common), ("ant", "bee"))
    assert (model.config.backbone_options["width"], model.config.backbone_options["padding"], model.num_classes) == (
        0.35,
        "tf",
        2,
    )
    assert model.preprocessing == start.preprocessing
    assert torch.equal(model.backbone.stem.conv.weight, start.backbone.stem.conv.weight)  # type: ignore[union-attr]
    model = model_of(load_config(Train, [*common, "model.image_size=96"]), ("ant", "bee"))
    assert model.preprocessing.image_size == (96, 96)
    assert model.preprocessing.mean == (0.5, 0.5, 0.5)


def test_the_papers_schedule_on_imagenet() -> None:
    """TF-slim: 0.98 every 2.5 epochs; its 2.5 / 8 is counted in the epochs of one worker of eight."""
    config = load_config(Train, ["recipe=imagenet_paper", "dataset=imagenet"])
    per_epoch = 1_281_167 / (8 * 96)
    epochs = config.trainer.max_epochs
    assert epochs * per_epoch == pytest.approx(700_000, rel=0.01)
    factor = schedule(total_steps=700_000, steps_per_epoch=per_epoch, **values(config.schedule))
    assert factor(int(2.49 * per_epoch)) == 1
    assert factor(int(2.51 * per_epoch)) == pytest.approx(0.98)
    assert factor(int(419.9 * per_epoch)) == pytest.approx(0.98**167)  # 0.034


def test_the_modern_recipe_is_evaluated_as_its_model_was() -> None:
    """pytorch/vision PR 5560: trained at 176, evaluated at 224 of 232."""
    config = load_config(Train, ["recipe=imagenet_modern", "dataset=imagenet"])
    with torch.device("meta"):
        model = model_of(config, ("ant", "bee"))
    place = model.preprocessing.placement(400, 400)
    assert (place.height, place.width, model.preprocessing.image_size) == (232, 232, (224, 224))
    augmentation = TASKS["classification"].training().augmentation(config.augmentation, model.preprocessing)
    assert augmentation(Shapes("train", 1, image_size=250)[0], 0).image.shape == (176, 176, 3)


def test_tensorflows_detection_schedule() -> None:
    """samples/configs/ssdlite_mobilenet_v2_coco.config: 0.004, 0.95 every 800,720 steps of 24; averaged by default."""
    config = load_config(Train, ["recipe=ssdlite_coco_paper"])
    factor = schedule(total_steps=10**6, steps_per_epoch=118_287 / 24, **values(config.schedule))
    assert [factor(800_000), factor(802_000)] == [1, pytest.approx(0.95)]
    assert (config.optimizer.lr, config.optimizer.reference_batch) == (0.004, 24)
    assert config.ema.decay == 0.9999


@pytest.mark.parametrize("recipe", RECIPE_FILES)
def test_more_devices_do_not_change_what_a_recipe_means(recipe: str) -> None:
    """Its learning rate goes with the global batch, or the number of devices is pinned."""
    name, _, task = recipe.partition("/")
    config = load_config(Train, [f"recipe={name}", *([f"task={task}"] if task else [])])
    assert config.optimizer.reference_batch is not None or config.trainer.devices == 1


def test_a_pinned_number_of_devices_can_be_changed() -> None:
    for value, wanted in (("auto", "auto"), ("2", 2), ("[0,1]", (0, 1))):
        config = load_config(Train, ["recipe=finetune", "dataset=imagenet", f"trainer.devices={value}"])
        assert config.trainer.devices == wanted


def test_every_file_says_what_it_is_for() -> None:
    for name in files():
        first = next(line for line in (config_folder() / name).read_text().splitlines() if "@package" not in line)
        assert first.startswith("# "), name


@pytest.mark.parametrize("task", CHOICES["task"])
def test_the_recipe_that_is_chosen_by_itself(task: str) -> None:
    """The shapes' with the shapes; with data of the user's the task's for fine-tuning, but not from scratch."""
    default = load_config(Train, [f"task={task}"])
    assert default.recipe == "shapes"
    assert default.init_from is None
    assert default == load_config(Train, [f"task={task}", "recipe=shapes"])
    assert default == load_config(Train, [f"task={task}", "dataset=shapes", "recipe=auto"])
    plain = load_config(Train, [f"task={task}", "recipe=null"])
    assert plain.recipe is None
    assert plain.optimizer.lr != default.optimizer.lr
    assert load_config(Train, [f"task={task}", "backbone=mobilenet_v1"]).backbone["name"] == "mobilenet_v1"

    name = "finetune" if task == "classification" else f"finetune_{task}"
    own = load_config(Train, [f"task={task}", "dataset=coco"])
    assert (own.recipe, own.init_from, own.dataset["name"]) == (name, "auto", "coco")
    assert own == load_config(Train, [f"task={task}", "dataset=coco", f"recipe={name}"])
    own = load_config(Train, [f"task={task}", "dataset=coco", "init_from=a.safetensors"])
    assert (own.recipe, own.init_from) == (name, "a.safetensors")
    scratch = load_config(Train, [f"task={task}", "dataset=coco", "init_from=none"])
    assert (scratch.recipe, scratch.init_from) == (None, None)
    assert scratch == load_config(Train, [f"task={task}", "dataset=coco", "recipe=null"])


@pytest.mark.parametrize("ratio", ["[1000,1000]", "[0.001,0.001]"])
def test_crops_of_extreme_ratios_have_pixels(ratio: str) -> None:
    config = load_config(Train, [f"augmentation.crop_ratio={ratio}", "model.image_size=32"])
    with torch.device("meta"):
        model = model_of(config, ("ant", "bee"))
    augmentation = TASKS["classification"].training().augmentation(config.augmentation, model.preprocessing)
    assert augmentation(Shapes("train", 1, image_size=48)[0], 0).image.shape == (32, 32, 3)
