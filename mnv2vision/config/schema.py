"""The options of the commands: the one place of names, kinds, defaults and help."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from mnv2vision.config.annotations import (
    BatchSize,
    Count,
    Detections,
    Formats,
    Name,
    NotNegative,
    Scales,
    Seconds,
    Seed,
    ShareOrAuto,
    Side,
    Size,
    Stride,
    UserText,
    UserTexts,
)
from mnv2vision.config.kinds import Many, Number, Text, Word, optional
from mnv2vision.config.options import option, passed_on, section
from mnv2vision.config.sections import (
    Checkpoint,
    Data,
    Distill,
    EarlyStopping,
    Ema,
    EvalTrainer,
    Inference,
    Loader,
    Logging,
    Model,
    Optimizer,
    Preprocessing,
    Schedule,
    Trainer,
    TrainLoader,
)


@dataclass(frozen=True)
class Train:
    """Train a model. Without arguments: classification of the built-in shapes, minutes on two cores."""

    task: Name = option("classification", "classification | detection | segmentation | joint")
    heads: UserTexts | None = option(
        None, "of task=joint: names that are tasks, or name:task, such as faces:detection; null: one of each task"
    )
    add_to: UserText | None = option(
        None, "a model to add this head to: it stays as it is, and the head alone is trained"
    )
    add_as: Name | None = option(None, "the name of the head that is added; null: its task")
    model: Model = section(Model)
    preprocessing: Preprocessing = section(Preprocessing)
    recipe: UserText | None = option(
        "auto", "a name, or the path of a .yaml; auto: the shapes' own, or the task's for fine-tuning; null: none"
    )
    init_from: UserText | None = option(
        None,
        "weights to start from: a file, a run's folder, a published name, auto (ImageNet's) or none; of a head for"
        " other classes, the classes of the same name stay",
    )
    resume: UserText | None = option(
        None,
        "a checkpoint (.ckpt) to go on from; the run's own configuration is used again; auto: the last one in run_dir,"
        " or a new run if there is none",
    )
    run_dir: UserText | None = option(None, "null: runs/<task>/<dataset>/<date_time>")
    seed: Seed = option(0, "of the head, the order, the augmentation, dropout")
    time: Seconds | None = option(
        None, "of the whole run, such as 10m: the schedule gets as many steps as fit, by measured ones; null: no limit"
    )
    loader: TrainLoader = section(TrainLoader)
    data: Data = section(Data)
    optimizer: Optimizer = section(Optimizer)
    schedule: Schedule = section(Schedule)
    ema: Ema = section(Ema)
    teacher: UserText | None = option(
        None,
        "a model to learn from: a file, a published name, timm/<name>, torchvision/<name>, an exported folder",
    )
    distill: Distill = section(Distill)
    freeze: NotNegative = option(0, "how many blocks of the backbone stay as they are")
    channels_last: bool = option(True, "memory format, the faster one")
    compile: bool = option(False, "torch.compile the training step")
    quantize: bool = option(
        False, "train and evaluate with the rounding of an int8 export, which then costs less; needs init_from"
    )
    checkpoint: Checkpoint = section(Checkpoint)
    early_stopping: EarlyStopping = section(EarlyStopping)
    debug: Name | None = option(
        None, "batch: draw augmented training images with their targets to <run_dir>/batch.png, and stop"
    )
    loggers: Annotated[tuple[str, ...], Many(Word())] = option(
        ("tensorboard",), "tensorboard | wandb | mlflow; metrics.csv is written in any case"
    )
    logging: Logging = section(Logging)
    trainer: Trainer = section(Trainer)
    monitor: Mapping[str, object] = passed_on()
    teachers: Mapping[str, object] = passed_on()
    loss: Mapping[str, object] = passed_on()
    augmentation: Mapping[str, object] = passed_on()
    inference: Mapping[str, object] = passed_on()
    backbone: Mapping[str, object] = passed_on()
    dataset: Mapping[str, object] = passed_on()


@dataclass(frozen=True)
class _Search:
    space: Annotated[tuple[str, ...], Many(Text(), alone=True)] = option(
        (), "'key=log(a,b)', 'key=uniform(a,b)', 'key=int(a,b)' or 'key=choice(a,b,…)', or a list of them"
    )
    trials: Count = option(20, "how many; the first has the recipe's own values, where the space has them")
    time: Seconds | None = option(None, "of all together, such as 30m; null: no limit")


@dataclass(frozen=True)
class Tune:
    """Search for the best values of keys of a training run: each trial is one; ends with a table and a recipe."""

    tune: _Search = section(_Search)
    run_dir: UserText | None = option(None, "null: runs/tune/<dataset>/<date_time>")
    resume: UserText | None = option(None, "the folder of a search to go on with")


@dataclass(frozen=True)
class _CheckModel:
    image_size: Size = option(None, "side, or [height,width], of the network's input; null: the task's")


@dataclass(frozen=True)
class Check:
    """Look a data set over before training: faults of files, copies, classes, annotations, on a page with pictures."""

    task: Name | None = option(
        None, "classification | detection | segmentation; null: that of the data set's first kind of annotations"
    )
    model: _CheckModel = section(_CheckModel)
    output: UserText = option("check", "folder for check.html and check.json")
    fix: Annotated[Literal["copy"], Word(("copy",))] | None = option(
        None, "copy: write a mended copy of the data set to <output>/fixed; the original stays as it is"
    )
    dataset: Mapping[str, object] = passed_on()


@dataclass(frozen=True)
class _EvalModel:
    image_size: Size = option(None, "another input size than the model's own")
    output_stride: Stride | None = option(None, "segmentation: 32, 16 or 8")
    max_detections: Detections | None = option(
        None, "detection: how many objects are found on an image at most; null: as the model says"
    )


_RUN_WITH_DATA = "instead, with its data set: a run's folder, or latest, the newest below runs/"


@dataclass(frozen=True)
class Eval:
    """Evaluate a model on the validation part of a data set: metrics.json, tables per class and pictures."""

    checkpoint: UserText | None = option(None, "a model.safetensors, or a published name")
    run: UserText | None = option(None, _RUN_WITH_DATA)
    runtime: Name = option("torch", "onnxruntime | openvino: the file's export, made once and kept")
    task: Name | None = option(None, "checked against the checkpoint's where given")
    compare: UserTexts | None = option(
        None, "of a model with several heads: models with one to put it beside, in compare.md: metrics, cost, time"
    )
    run_dir: UserText | None = option(None, "null: runs/eval/<dataset>/<date_time>")
    seed: Seed = option(0, "of whatever is drawn")
    model: _EvalModel = section(_EvalModel)
    inference: Inference = section(Inference)
    loader: Loader = section(Loader)
    data: Data = section(Data)
    trainer: EvalTrainer = section(EvalTrainer)
    dataset: Mapping[str, object] = passed_on()


@dataclass(frozen=True)
class _PredictInference:
    scales: Scales = option((1.0,), "segmentation: of the network's input; several are averaged")
    flip: bool = option(False, "segmentation: average with the mirror image")
    window: bool = option(
        False, "detection, segmentation: look at large photos through windows, in their own resolution"
    )


@dataclass(frozen=True)
class Predict:
    """Predict for photos and videos: an annotated copy of each, predictions.csv and .json; of objects counts.csv."""

    checkpoint: UserText | None = option(None, "a model.safetensors, or a published name")
    run: UserText | None = option(None, "instead: a run's folder, or latest, the newest below runs/")
    images: Annotated[str | tuple[str, ...] | None, optional(Text(), Many(Text(), least=1))] = option(
        None,
        "photos and videos: a file, a folder, a pattern in quotes, or a list; a camera's number, a stream's address",
    )
    output: UserText = option("predictions", "folder for the results")
    output_format: Annotated[Literal["coco", "yolo", "voc"] | None, optional(Word(("coco", "yolo", "voc")))] = option(
        None, "detection: labels to correct and to train on, too: coco | yolo | voc"
    )
    every: Count = option(1, "of videos: only each so manieth frame")
    frames: bool = option(False, "of videos: make photos of the frames, in frames/, and predict for these")
    tracks: bool = option(False, "detection in videos: number objects over the frames, and count each once")
    top: Count = option(5, "classification: how many classes to write for each image")
    threshold: ShareOrAuto = option(
        0.3, "detection: from which score on; auto: for each class what was best at the end of training"
    )
    max_detections: Detections | None = option(
        None, "detection: how many objects are found on a photo at most; null: as the model says"
    )
    colors: Annotated[tuple[str, ...], Many(Text("<class>:<colour>"), alone=True)] = option(
        (), "of some classes, such as [person:#ff0000,car:blue]; the others have colours by their names"
    )
    font: UserText | None = option(None, "a .ttf, .otf or .ttc file for names in other scripts; null: installed fonts")
    inference: _PredictInference = section(_PredictInference)
    batch_size: BatchSize = option(16, "images at a time")
    device: UserText | None = option(None, "null: the GPU if there is one")
    runtime: Name = option(
        "auto",
        "torch; onnxruntime | openvino: the file's export, made once and kept; auto: the fastest of those there are",
    )


@dataclass(frozen=True)
class Convert:
    """Convert published weights of other projects to a model file, or a model file to other projects' names."""

    source: Name | None = option(None, "tensorflow | torchvision | timm | huggingface | paddle | pytorch")
    name: UserText | None = option(
        None, "of published weights (docs/weights.md), downloaded unless input is a local copy"
    )
    to: Name | None = option(None, "torchvision | timm: write the state dictionary of the model file input")
    info: UserText | None = option(None, "show what a model file holds, and where it came from")
    task: Name | None = option(None, "classification (null) | detection | segmentation")
    input: UserText | None = option(
        None, "the file; tensorflow: variables, checkpoint, .pb, SavedModel or .tflite; torchvision: also a name"
    )
    output: UserText = option("model.safetensors", "the file to write")
    keep_background: bool | None = option(None, "tensorflow, huggingface: keep class 0 of 1001")
    keep_gaps: bool | None = option(
        None, "tensorflow, detection: keep all 90 classes of COCO's 91 columns, not the 80 with names"
    )
    names: UserTexts | None = option(None, "tensorflow, huggingface: class names of a detector or a segmentation model")
    image_size: Side | None = option(
        None, "tensorflow, huggingface: side of the network's input; null: 300 (detection), 513 (segmentation)"
    )
    output_stride: Stride | None = option(None, "tensorflow, huggingface, segmentation: null: 8")
    padding: Name | None = option(
        None, "timm: tf for its tf_ models; huggingface: null: tf; tensorflow, segmentation: null: symmetric"
    )
    head_activation: Name | None = option(
        None, "huggingface, segmentation: null: relu6, as TensorFlow's graph computes it"
    )


@dataclass(frozen=True)
class Average:
    """Average the weights of models of one architecture that began alike, such as the last epochs of a run."""

    models: Annotated[tuple[str, ...], Many(Text(), least=1, alone=True)] | None = option(
        None, "the folder of a run with checkpoint.keep_last=, or a list of models: files, checkpoints, published names"
    )
    last: Count | None = option(None, "of a run: how many of its epochs; null: all that it kept")
    greedy: bool = option(
        False, "of the models, in the order of their main metric, leave out those that lower it; needs dataset="
    )
    batch_norm: Annotated[Literal["average", "estimate"], Word(("average", "estimate"))] = option(
        "average", "the running statistics: the models' averages, or those of images of the training part of dataset="
    )
    images: Count = option(2000, "of the training part, at most, for batch_norm=estimate")
    output: UserText = option("averaged", "folder for model.safetensors, and the metrics where dataset= is given")
    seed: Seed = option(0, "of whatever is drawn")
    loader: Loader = section(Loader)
    dataset: Mapping[str, object] = passed_on()


@dataclass(frozen=True)
class Export:
    """Export a model for devices, each file with its measured accuracy, and with all that is needed to feed it."""

    checkpoint: UserText | None = option(None, "a model.safetensors, or a published name")
    run: UserText | None = option(None, _RUN_WITH_DATA)
    formats: Formats = option(("onnx",), "onnx | openvino | litert | executorch | coreml; all: all of them")
    quantize: Annotated[Literal["none", "fp16", "int8"], Word(("none", "fp16", "int8"))] = option(
        "none", "int8: of weights and activations, calibrated with images of the data set's training part"
    )
    output: UserText = option("exported", "where each file gets a folder, such as exported/onnx-int8")
    heads: UserTexts | None = option(None, "of a model with several: those to export; null: all")
    input: Annotated[Literal["uint8", "float"], Word(("uint8", "float"))] = option(
        "uint8", "type of the pixel values 0..255 that it takes"
    )
    layout: Annotated[Literal["NHWC", "NCHW"], Word(("NHWC", "NCHW"))] = option("NHWC", "of its input")
    post: Annotated[Literal["raw", "fixed"], Word(("raw", "fixed"))] = option(
        "raw", "raw: the heads' outputs; fixed: probabilities, a fixed number of boxes, or labels at input size"
    )
    batch: BatchSize | None = option(None, "a fixed number of images; null: any, where the format can")
    images: Count = option(
        300, "how many images of the data set, drawn by seed, to measure on, and to calibrate int8 with"
    )
    allow_drop: Annotated[float | None, optional(Number(0, 100))] = option(
        0.5, "fp16, int8: points of the task's main metric that may be lost; null: any"
    )
    seed: Seed = option(0, "of whatever is drawn")
    data: Data = section(Data)
    dataset: Mapping[str, object] = passed_on()


@dataclass(frozen=True)
class Benchmark:
    """Measure speed against torchvision and others, as ratios within one run; above 1, mnv2vision is faster."""

    task: Annotated[str, Word(("classification", "detection", "segmentation", "threads"))] | None = option(
        None, "null: all three tasks; threads: how threads should wait"
    )
    data: UserText | None = option(None, "a folder with train/: the input pipeline as well, on these photos")
    checkpoint: UserText | None = option(
        None, "a model.safetensors, or a published name: measure what it is exported to instead"
    )
    formats: Formats = option(
        ("all",), "for checkpoint: onnx | openvino | litert | executorch | coreml; all: installed"
    )
    output: UserText = option("benchmark", "for checkpoint: folder for the table and the exported files")
    dataset: Mapping[str, object] = passed_on()


@dataclass(frozen=True)
class Reproduce:
    """Put the paper's tables, and other projects', beside what the models here have (docs/reproduction.md)."""

    table: UserText | None = option(None, "2 to 7, slim_v2, torchvision, …; null: all")
    format: Name = option("markdown", "markdown | csv | json")
    output: UserText | None = option(None, "the file to write, or the folder of figures; null: the screen, figures/")
    evaluate: Name | None = option(None, "imagenet | coco | voc: measure accuracy; takes the keys of eval as well")
    weights: UserText | None = option(None, "for evaluate: model files or folders, separated by commas")
    latency: bool = option(False, "this machine's CPU beside the paper's Pixel 1")
    figure: Name | None = option(None, "1 | table6 | 5 | memory | parameters | all: draw figures instead")
