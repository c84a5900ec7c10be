"""predict.py of an exported folder: runs alone, and gives what `predict` gives."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch import nn

import mnv2vision as mv

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NAMES = ("яблоко", "梨", "a plum", "fig")
ALONE = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked here")
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
BLOCKED = {"torch", "torchvision", "cv2", "mnv2vision", "matplotlib", "scipy"}
RUNS_WITH = {"onnx": "onnxruntime", "openvino": "openvino", "litert": "ai_edge_litert", "executorch": "executorch"}


def photo(height: int, width: int) -> NDArray[np.uint8]:
    cells = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC))


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "classification": ("classification", {}, {}),
    "classification fixed": ("classification", {}, {"post": "fixed", "layout": "NCHW"}),
    "detection": ("detection", {"padding": "tf"}, {"layout": "NCHW"}),
    "detection softmax": ("detection", {"scores": "softmax", "preprocessing": {"resize": "letterbox"}}, {}),
    "detection fixed": ("detection", {}, {"post": "fixed"}),
    "segmentation": ("segmentation", {}, {}),
    "segmentation tf": ("segmentation", {"padding": "tf", "preprocessing": {"resize": "stretch"}}, {"layout": "NCHW"}),
    "segmentation fixed": ("segmentation", {}, {"post": "fixed"}),
    "openvino": ("detection", {}, {"name": "openvino"}),
    "litert": ("segmentation", {}, {"name": "litert"}),
    "executorch": ("classification", {}, {"name": "executorch"}),
    # On processors without VNNI, products clip unless the runtime is told otherwise.
    "int8": ("classification", {}, {"calibration": (photo(65, 65),)}),
    "int8 openvino": ("classification", {}, {"calibration": (photo(65, 65),), "name": "openvino"}),
}


@pytest.mark.parametrize("case", CASES)
def test_runs_alone_and_equals_predict(
    case: str, exported: Callable[..., Path], randomize: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    task, options, how = CASES[case]
    kind = how.get("name", "onnx")
    pytest.importorskip(RUNS_WITH[kind])
    blocked = {"cv2", "mnv2vision"} if kind == "executorch" else BLOCKED  # whose runtime in Python needs torch
    model = mv.create_model(task, width=0.35, depth=0.5, names=NAMES, image_size=65, **options)
    randomize(model)
    folder = exported(model.eval(), tmp_path / "an outing 出", **how)
    script = (folder / "predict.py").read_text(encoding="utf-8")
    assert len(script.splitlines()) <= 80
    assert "#?" not in script
    image = photo(90, 141)
    Image.fromarray(image).save(tmp_path / "фото.png")
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    environment.pop("PYTHONPATH", None)
    given = [str(folder / "predict.py"), "фото.png", "drawn.png"]
    done = subprocess.run(
        [sys.executable, "-c", ALONE.format(blocked=blocked), *given],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    answer = json.loads(done.stdout.decode("utf-8"))
    found: Any = mv.Predictor(folder)(image)
    if task == "classification":
        assert [item["name"] for item in answer] == [name for name, _ in found.top()]
        np.testing.assert_allclose([item["score"] for item in answer], [score for _, score in found.top()], atol=1e-4)
    elif task == "detection":
        assert len(answer) == len(found) > 0
        np.testing.assert_allclose([item["score"] for item in answer], found.scores, atol=1e-4)
        apart = np.diff(found.scores, prepend=2, append=-1) < -1e-4  # others may change places
        certain = apart[:-1] & apart[1:]
        boxes = np.array([item["box"] for item in answer])
        np.testing.assert_allclose(boxes[certain], found.boxes[certain], atol=0.5)
        labels = np.array([NAMES.index(item["name"]) for item in answer])
        np.testing.assert_array_equal(labels[certain], found.labels[certain])
    else:
        with Image.open(tmp_path / "mask.png") as mask:
            assert (np.asarray(mask) == found.mask).mean() >= 0.999
        assert {item["name"] for item in answer} == {name for name, _ in found.shares()}
    with Image.open(tmp_path / "drawn.png") as drawn:
        assert drawn.size == (141, 90)
        assert np.abs(np.asarray(drawn.convert("RGB")).astype(int) - image).max() > 0
