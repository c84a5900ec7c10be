"""The fastest precision on each device."""

import torch


def best_precision(accelerator: str) -> str:
    """The precision to train in, by Lightning's name.

    Args:
        accelerator: The device, by Lightning's name; "auto" is a GPU if there is one.
    """
    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    # Without matrix instructions (AMX), bfloat16 on a CPU is slower than float32. The query is a private one.
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return "bf16-mixed" if has_amx() else "32-true"
