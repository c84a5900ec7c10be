"""Sections that the commands share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from mnv2vision.config.annotations import (
    AboveZero,
    BatchSize,
    BatchSizeOrAuto,
    BelowOne,
    Byte,
    Colour,
    Count,
    Deviation,
    Epochs,
    Factors,
    Limit,
    LimitOrNone,
    Name,
    NotNegative,
    Rate,
    RateOrAuto,
    Scales,
    Share,
    Size,
    UserText,
)
from mnv2vision.config.kinds import Flag, Many, Number, Word, optional, whole
from mnv2vision.config.options import option, passed_on

_WORKERS = "reading processes; null: half the cores, at most 8"


@dataclass(frozen=True)
class Loader:
    """Reading and batching."""

    batch_size: BatchSize = option(32, "images per process")
    workers: Annotated[int, whole(0, 256)] | None = option(None, _WORKERS)


@dataclass(frozen=True)
class TrainLoader:
    """Reading and batching in training."""

    batch_size: BatchSizeOrAuto = option(32, "images per process; auto: the most that fit into memory")
    workers: Annotated[int, whole(0, 256)] | None = option(None, _WORKERS)

    @property
    def size(self) -> int:
        """The batch size, once it is decided."""
        assert isinstance(self.batch_size, int)
        return self.batch_size


@dataclass(frozen=True)
class Data:
    """Damaged files, and several data sets: data.<name>.dataset=…, with its keys as data.<name>.root=…."""

    on_error: Annotated[Literal["raise", "skip"], Word()] = option(
        "raise", "raise: stop at a file that cannot be read; skip: replace it, and list it at the end"
    )
    alpha: Share = option(
        0.5, "of several data sets: the share of a batch grows with the number of images to this power; 0: all alike"
    )
    more: Mapping[str, object] = passed_on()  # the data sets


@dataclass(frozen=True)
class Model:
    """What every model has."""

    image_size: Size = option(None, "side, or [height,width], of the network's input; null: init_from's, or the task's")
    num_classes: Annotated[int, whole(1, 10**6)] | None = option(None, "null: the data set's")
    more: Mapping[str, object] = passed_on()  # the head's


@dataclass(frozen=True)
class Preprocessing:
    """From photo to network; null: as in init_from, or the library's default."""

    resize: Name | None = option(None, "crop | stretch | letterbox")
    crop_fraction: Annotated[float, Number(0.01, 1)] | None = option(
        None, "crop: share of the shorter side that is kept"
    )
    interpolation: Name | None = option(None, "bilinear | bicubic")
    antialias: bool | None = option(None, "smooth before shrinking")
    mean: Annotated[tuple[float, ...], Colour] | None = option(None, "of pixel values in 0..1, for each of R, G, B")
    std: Annotated[tuple[float, ...], Deviation] | None = option(None, "standard deviation, likewise")
    padding_value: Byte | None = option(None, "of letterboxing and augmentation, 0..255")


@dataclass(frozen=True)
class Optimizer:
    """See `training.optim.build_optimizer`."""

    name: Name = option("sgd", "sgd | rmsprop_tf (TensorFlow's, see docs) | adamw")
    lr: RateOrAuto = option(
        0.05, "learning rate, for a global batch of reference_batch images; auto: by a range test of 100 steps"
    )
    reference_batch: Count | None = option(None, "null: lr is used as it is")
    weight_decay: Rate = option(4.0e-5, "of convolutions' and linear layers' weights")
    decay_depthwise: bool = option(False, "decay depthwise kernels as well")
    momentum: Share = option(0.9, "sgd, rmsprop_tf; adamw: its first beta")
    nesterov: bool = option(False, "sgd")
    rms_decay: Share = option(0.9, "rmsprop_tf: decay of the mean square")
    eps: Annotated[float, Number(above=0)] | None = option(None, "rmsprop_tf, adamw; null: the optimiser's default")
    layer_rates: Factors | None = option(
        None, "factors of the rate for the backbone's layers in as many equal groups, from the stem on; heads: 1"
    )


@dataclass(frozen=True)
class Schedule:
    """See `training.optim.schedule`."""

    name: Name = option("cosine", "constant | exponential | cosine | poly")
    warmup_epochs: Epochs = option(0.0, "over which the rate rises from 0; a fifth of the run at most")
    decay_rate: AboveZero = option(0.98, "exponential: times this ...")
    decay_epochs: Annotated[float, Number(most=10**9, above=0)] = option(1.0, "... every so many epochs")
    power: Annotated[float, Number(0, 100)] = option(0.9, "poly")
    final: Share = option(0.0, "cosine, poly: factor at the end")


@dataclass(frozen=True)
class Ema:
    """Averaged weights."""

    decay: BelowOne = option(0.0, "of the averaged weights, which are then the ones evaluated and kept; 0: none")


@dataclass(frozen=True)
class Distill:
    """How heads learn from teachers (docs/distillation.md)."""

    loss: Annotated[Literal["kl", "js", "dist"], Word(("kl", "js", "dist"))] = option(
        "kl", "kl: Kullback-Leibler | js: Jensen-Shannon, as in SSLD | dist: correlations; detection: kl, js"
    )
    temperature: Annotated[float, Number(most=1000, above=0)] = option(1.0, "of both sides' logits")
    weight: Rate = option(1.0, "of what the teacher says, beside the loss of the labels")
    labels: bool = option(True, "false: learn from the teacher alone; annotations are for evaluation")
    images: Annotated[Literal["all", "unlabelled"], Word(("all", "unlabelled"))] = option(
        "all", "all, or unlabelled: those without labels of the head"
    )
    batch_statistics: bool = option(False, "true: teachers normalise by each batch's statistics, as in SSLD")
    features: Annotated[tuple[str, ...], Many(Word())] = option(
        (), "taps that are to be like the teacher's, such as [block13.expand,last]"
    )
    cache: UserText | None = option(
        None,
        "a folder that keeps the teacher's answers: the same seed and augmentation, and they are not computed again",
    )


@dataclass(frozen=True)
class Checkpoint:
    """Checkpoints."""

    every_n_steps: Count | None = option(None, "write last.ckpt within epochs, too")
    keep_last: Count | None = option(None, "keep the checkpoints of the last so many epochs, to average them")


@dataclass(frozen=True)
class EarlyStopping:
    """Early stopping."""

    patience: Count | None = option(None, "stop after so many validations without a better result")


@dataclass(frozen=True)
class Logging:
    """Of loggers that have a server; null: what its own environment variable says."""

    project: UserText | None = option(None, "wandb's project, MLflow's experiment; null: as the environment says")
    name: UserText | None = option(None, "of the run; a made-up one where no variable says")
    address: UserText | None = option(None, "of the server; MLflow: <run_dir>/mlruns where no variable says")


@dataclass(frozen=True)
class Inference:
    """Of segmentation."""

    scales: Scales = option((1.0,), "segmentation: of the network's input; several are averaged")
    flip: bool = option(False, "segmentation: average with the mirror image")


@dataclass(frozen=True)
class EvalTrainer:
    """Lightning's Trainer; further options of it by a plus, as in +trainer.profiler=simple."""

    accelerator: Annotated[str, Word(("auto", "cpu", "gpu", "cuda", "mps"))] = option(
        "auto", "cpu | gpu | cuda | mps | auto"
    )
    devices: Annotated[
        str | int | tuple[int, ...] | None,
        optional(Word(("auto",)), whole(1, 128), whole(-1, -1), Many(whole(0, 1023), least=1)),
    ] = option("auto", "how many, or a list of their numbers; -1: all")
    num_nodes: Annotated[int, whole(1, 10**4)] = option(1, "machines")
    strategy: Annotated[
        str, Word(("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false"))
    ] = option("auto", "auto: ddp where there are several devices")
    precision: Annotated[str, Word(("auto", "32", "32-true", "bf16-mixed", "16-mixed"))] = option(
        "auto", "auto: bf16 where the processor or GPU computes in it, else 32; or 32, bf16-mixed, 16-mixed"
    )
    limit_val_batches: LimitOrNone = option(None, "batches of a validation, or a share of them")
    deterministic: Annotated[bool | str | None, optional(Flag(), Word(("warn",)))] = option(
        None, "true: the same on a GPU each time, and slower; warn: as far as possible"
    )
    more: Mapping[str, object] = passed_on()  # Lightning's further options


@dataclass(frozen=True)
class Trainer(EvalTrainer):
    """What training has beside it."""

    max_epochs: Annotated[int, whole(-1, 10**9)] = option(12, "-1: no limit")
    max_steps: Annotated[int, whole(-1, 10**12)] = option(-1, "-1: no limit")
    accumulate_grad_batches: Count = option(1, "batches to a step")
    gradient_clip_val: Rate | None = option(None, "norm at which gradients are clipped")
    check_val_every_n_epoch: Count | None = option(1, "epochs from one validation to the next")
    limit_train_batches: Limit = option(None, "batches of an epoch, or a share of them")
    log_every_n_steps: NotNegative = option(20, "steps between two entries of the loggers")
    sync_batchnorm: bool = option(False, "batch statistics over all processes")
