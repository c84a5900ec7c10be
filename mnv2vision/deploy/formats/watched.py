"""What the activations of an ONNX model hold on calibration images."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mnv2vision.common.threads import usable_cores

if TYPE_CHECKING:
    from onnx import ModelProto

Rule = Literal["min-max", "percentile"]
"""How a range is chosen: the least and largest value; or without 1 value in 100,000 at either end."""
RULES: tuple[Rule, ...] = ("percentile", "min-max")

_VALUES = 2**18  # of each tensor that are kept, 1 MiB


class Watched:
    """Activations by the names of their tensors."""

    def __init__(self, model: "ModelProto", tensors: Sequence[str], images: Sequence[NDArray[Any]]) -> None:
        """Run the model on the images, one at a time: all activations of DeepLab at 513 pixels are 250 MB.

        Args:
            model: In float.
            tensors: To watch.
            images: In the layout and type of the model's input, without the batch.
        """
        generator = np.random.default_rng(0)
        share = -(-_VALUES // len(images))
        self._extremes: dict[str, tuple[float, float]] = {}
        self._values: dict[str, list[NDArray[np.float32]]] = {name: [] for name in tensors}
        run = Runner(model, tensors)
        for image in images:
            for name, value in run(image[None]).items():
                flat = value.ravel(order="K")
                least, largest = self._extremes.get(name, (np.inf, -np.inf))
                self._extremes[name] = min(least, float(flat.min())), max(largest, float(flat.max()))
                self._values[name].append(flat[generator.integers(0, flat.size, min(share, flat.size))])

    def ranges(self, rule: Rule) -> dict[str, tuple[float, float]]:
        """Least and largest value of each tensor by a rule."""
        if rule == "min-max":
            return dict(self._extremes)
        ends = {name: np.percentile(np.concatenate(kept), (0.001, 99.999)) for name, kept in self._values.items()}
        return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


class Runner:
    """An ONNX model in memory, with any of its tensors as outputs."""

    def __init__(self, model: "ModelProto", tensors: Sequence[str]) -> None:
        import onnx
        import onnxruntime

        watching = onnx.ModelProto()
        watching.CopyFrom(model)
        del watching.graph.output[:]
        watching.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usable_cores()
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.x64quantprecision", "1")  # as the runtime has it
        content = watching.SerializeToString()
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._tensors, self._input = list(tensors), model.graph.input[0]

    def __call__(self, images: NDArray[Any]) -> Mapping[str, NDArray[np.float32]]:
        """The tensors for a batch; a fixed batch is filled with copies of the last image."""
        missing = (self._input.type.tensor_type.shape.dim[0].dim_value or len(images)) - len(images)
        given = np.concatenate([images, np.repeat(images[-1:], missing, 0)])
        return dict(zip(self._tensors, self._session.run(None, {self._input.name: given}), strict=True))
