"""An exported model's folder: the model beside `model.json`, all that is needed to feed it and to read its answers.

Nothing here imports torch: a folder is predicted with where only its runtime is installed.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from mnv2vision.common.atomic import write_text
from mnv2vision.errors import WeightsError

FORMAT_VERSION = 1
MODEL_JSON = "model.json"

Precision = Literal["float", "fp16", "int8"]

_CHOICES = {"precision": ("float", "fp16", "int8"), "layout": ("NHWC", "NCHW"), "post": ("raw", "fixed")}
_OUTPUTS = {
    ("classification", "raw"): {"logits"},
    ("classification", "fixed"): {"probabilities"},
    ("detection", "raw"): {"box_codes", "class_logits"},
    ("detection", "fixed"): {"boxes", "scores", "labels", "counts"},
    ("segmentation", "raw"): {"logits"},
    ("segmentation", "fixed"): {"labels"},
}
"""Of heads, by task and `Bundle.post`."""


@dataclass(frozen=True)
class TensorSpec:
    """A tensor at a graph's edge.

    Attributes:
        name: In the graph, where the format keeps names.
        dtype: "uint8", "int8", "float32" or "int64".
        shape: None for a batch of any size.
        scale: Of quantised values: real = scale * (value - zero_point); None where they are real.
        zero_point: See `scale`.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    scale: float | None = None
    zero_point: int = 0


@dataclass(frozen=True)
class HeadSpec:
    """A head of an exported model.

    Attributes:
        task: "classification", "detection" or "segmentation".
        names: Class names by label.
        outputs: Its tensors: a name of `HeadExport`'s to the name of a `TensorSpec`.
        parameters: What decodes them; see `HeadExport.parameters`.
    """

    task: str
    names: tuple[str, ...]
    outputs: Mapping[str, str]
    parameters: Mapping[str, object]


@dataclass(frozen=True)
class Bundle:
    """What `model.json` holds.

    Attributes:
        format: "onnx", "openvino", "litert", "executorch" or "coreml".
        precision: Of weights and activations.
        file: Name of the model's file or folder, beside `model.json`.
        sha256: Of that file; of a folder's files by `digest`.
        input: `images`, RGB, pixel values 0 to 255 as uint8 or float32; scaling and normalisation are in the graph.
        layout: Of the input.
        post: "raw": the heads' outputs; "fixed": finished answers of a fixed shape.
        outputs: In the graph's order.
        heads: By name.
        preprocessing: `Preprocessing.to_dict`: what makes the input of a photo.
        steps: The preprocessing in words.
        model: `ModelConfig.to_dict`.
        provenance: Where the weights came from.
        versions: Of what wrote the folder.
        quantisation: How an int8 model was made: scheme, calibration images, layers left in float.
        report: Figures of the proof, see `deploy.report`; empty before it is measured.
    """

    format: str
    precision: Precision
    file: str
    sha256: str
    input: TensorSpec
    layout: Literal["NHWC", "NCHW"]
    post: Literal["raw", "fixed"]
    outputs: tuple[TensorSpec, ...]
    heads: Mapping[str, HeadSpec]
    preprocessing: Mapping[str, object]
    steps: tuple[str, ...]
    model: Mapping[str, object]
    provenance: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    quantisation: Mapping[str, object] = field(default_factory=dict)
    report: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> str:
        """The text of `model.json`."""
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    def write(self, folder: Path) -> None:
        """Write `model.json`, whole or not at all."""
        write_text(folder / MODEL_JSON, self.to_json())

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Self:
        """Read and check a folder.

        Raises:
            WeightsError: For a folder that is none of ours, damaged, incomplete, or from a newer version.
        """
        folder = Path(folder)
        if not (folder / MODEL_JSON).is_file():
            raise WeightsError(f"{folder}: not an exported model (no {MODEL_JSON})")
        try:
            data = json.loads((folder / MODEL_JSON).read_text(encoding="utf-8"))
            version = data.pop("format_version")
            if type(version) is int and version > FORMAT_VERSION:
                raise WeightsError(
                    f"{folder / MODEL_JSON}: in format {version}; this version reads up to {FORMAT_VERSION}:"
                    " upgrade mnv2vision"
                )
            bundle = cls._from(data)
            bundle._check()
        except WeightsError:
            raise
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{folder / MODEL_JSON}: damaged ({type(error).__name__}: {error})") from error
        path = folder / bundle.file
        if not path.exists():
            raise WeightsError(f"{folder}: incomplete: {bundle.file} is missing")
        if digest(path) != bundle.sha256:
            raise WeightsError(f"{path}: cut, or another file than the one exported (its sha256 differs)")
        return bundle

    @classmethod
    def _from(cls, data: dict[str, Any]) -> Self:
        def tensor(given: dict[str, Any]) -> TensorSpec:
            return TensorSpec(**{**given, "shape": tuple(given["shape"])})

        heads = {name: HeadSpec(**{**head, "names": tuple(head["names"])}) for name, head in data.pop("heads").items()}
        outputs = tuple(tensor(output) for output in data.pop("outputs"))
        steps = tuple(data.pop("steps"))
        return cls(input=tensor(data.pop("input")), outputs=outputs, heads=heads, steps=steps, **data)

    def _check(self) -> None:
        """Raise ValueError, TypeError or AttributeError for what does not fit together."""
        for name, valid in _CHOICES.items():
            if (value := getattr(self, name)) not in valid:
                raise ValueError(f"{name} {value!r} is none of {', '.join(valid)}")
        if not isinstance(self.format, str) or not isinstance(self.file, str) or Path(self.file).name != self.file:
            raise ValueError(f"format {self.format!r} and file {self.file!r} must be names")
        sides = self.input.shape[1:3] if self.layout == "NHWC" else self.input.shape[2:]
        if len(self.input.shape) != 4 or list(sides) != list(self.preprocessing["image_size"]):  # type: ignore[call-overload]
            raise ValueError(f"an input of {self.input.shape} in {self.layout} is not of the preprocessing's size")
        if not self.heads or not isinstance(self.model["heads"], Mapping):
            raise ValueError("it has no heads")
        tensors = {output.name for output in self.outputs}
        for name, head in self.heads.items():
            wanted = _OUTPUTS.get((head.task, self.post))
            if wanted != set(head.outputs) or not tensors.issuperset(head.outputs.values()):
                raise ValueError(f"the outputs of {name} are not those of {head.task} with post={self.post}")
            if not head.names or not all(isinstance(label, str) for label in head.names):
                raise ValueError(f"the class names of {name} are missing")
            if not isinstance(head.parameters, Mapping):
                raise ValueError(f"the parameters of {name} are missing")


def digest(path: Path) -> str:
    """SHA-256 of a file; of a folder that of its files' names and digests, in order."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(item for item in path.rglob("*") if item.is_file())
    listed = "".join(f"{item.relative_to(path).as_posix()} {digest(item)}\n" for item in files)
    return hashlib.sha256(listed.encode()).hexdigest()


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Whether a path is an exported model's folder."""
    return (Path(path) / MODEL_JSON).is_file()
