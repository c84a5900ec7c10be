"""predict.py of an exported folder: a program for strangers, of numpy, Pillow and the runtime alone."""

import re
from importlib.resources import files

from mnv2vision.inference.bundle import Bundle

_RUNTIMES = ("onnx", "openvino", "litert", "executorch")


def predict_script(bundle: Bundle) -> str | None:
    """The text of predict.py; None for models with several heads, and for formats that run on other systems alone.

    The template has parts for certain models alone, between "#? key=value" and "#."; at most 80 lines remain.

    Args:
        bundle: That the program will lie beside.
    """
    if len(bundle.heads) > 1 or bundle.format not in _RUNTIMES:
        return None
    (head,) = bundle.heads.values()
    facts = {**bundle.preprocessing, **head.parameters, "task": head.task}
    facts |= {"format": bundle.format, "post": bundle.post, "layout": bundle.layout}
    template = (files("mnv2vision.deploy") / "predict.py.txt").read_text(encoding="utf-8")
    kept: list[str] = []
    open_parts: list[bool] = []
    for line in template.splitlines():
        if line.startswith("#? "):
            key, value = line.removeprefix("#? ").split("=")
            open_parts.append(str(facts.get(key)) == value)
        elif line == "#.":
            open_parts.pop()
        elif all(open_parts):
            kept.append(line)
    return re.sub(r"\n{4,}", "\n\n\n", "\n".join(kept)) + "\n"
