"""What a model costs: multiply-adds, parameters and activation memory."""

import copy
import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mnv2vision.backbones.folding import fold_batch_norm


class Complexity(NamedTuple):
    """Costs of one image.

    Attributes:
        madds: Multiply-adds of convolutions and matrix products.
        params: Parameters.
        params_without_norm: Parameters without batch norm's scale and bias, as TF's MobileNetV2 table counts.
        buffers: Elements of running means and variances.
        peak_activation_bytes: Largest sum of the activations alive at one time in float32 inference with batch norm
            folded, the input image included.
    """

    madds: int
    params: int
    params_without_norm: int
    buffers: int
    peak_activation_bytes: int


def complexity(model: nn.Module, image_size: tuple[int, int], in_channels: int = 3) -> Complexity:
    """Count the costs of one image of `image_size` (height, width), without computing anything.

    Args:
        model: A model or backbone; it is left as it is, and may live on the meta device.
        image_size: Height and width of the input in pixels.
        in_channels: Channels of the input.
    """
    params = sum(parameter.numel() for parameter in model.parameters())
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    in_norms = sum(parameter.numel() for norm in norms for parameter in norm.parameters())
    buffers = sum(buffer.numel() for name, buffer in model.named_buffers() if "num_batches" not in name)

    meta = fold_batch_norm(copy.deepcopy(model).to("meta"))
    image = torch.empty(1, in_channels, *image_size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as flops, _PeakMemory(image) as memory:
        meta(image)
    return Complexity(flops.get_total_flops() // 2, params, params - in_norms, buffers, memory.peak)


class _PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Follows the storages that operators create until the last tensor on them is gone."""

    def __init__(self, *inputs: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owners: dict[int, int] = {}
        self.current = self.peak = 0
        for tensor in inputs:
            self._follow(tensor)

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._owners:
            self._owners[key] = 0
            self.current += size
            self.peak = max(self.peak, self.current)
        self._owners[key] += 1
        weakref.finalize(tensor, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._owners[key] -= 1
        if not self._owners[key]:
            del self._owners[key]
            self.current -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {tensor.untyped_storage()._cdata for tensor in args if isinstance(tensor, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            # An in-place operator or a view of a parameter makes no new activation.
            if isinstance(tensor, Tensor) and (
                tensor.untyped_storage()._cdata not in known or tensor.untyped_storage()._cdata in self._owners
            ):
                self._follow(tensor)
        return result
