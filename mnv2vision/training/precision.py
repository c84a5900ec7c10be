"""Which arithmetic is fastest where."""

import torch


def best_precision(accelerator: str) -> str:
    """Lightning's name of the precision to train in.

    Args:
        accelerator: Lightning's name of the device; "auto" takes a GPU if there is one.
    """
    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    # Without matrix instructions for it, bfloat16 on a CPU is slower than float32.
    return "bf16-mixed" if torch.cpu._is_amx_tile_supported() else "32-true"
