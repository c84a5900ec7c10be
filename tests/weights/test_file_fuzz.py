"""Damaged, lying and hostile weights files: each gives a model whose figures are numbers, or one line that names it."""

import io
import json
import os
import pickle
import random
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mnv2vision as mv
from mnv2vision.errors import Mnv2visionError, WeightsError
from mnv2vision.weights.importers.from_paddle import read_pdparams
from mnv2vision.weights.importers.tables import read_state

pytestmark = pytest.mark.slow

ODD: tuple[Any, ...] = (
    *(float("nan"), float("inf"), -1, 0, 1, 2, 0.5, 1e-300, 1e300, 10**30, -(2**31), True, None, "", "tf", "1", [], {}),
    *([0.5, 0.5], [0.5] * 4, [float("nan")] * 3, [1e38] * 3, [0, 0, 0], ["a", "b", "c"], [[1]], {"a": 1}, "x" * 3000),
)
DTYPES = ("F64", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "U16", "BOOL", "F8_E4M3", "F8_E5M2", "C64", "F4", "X9")
PHOTO = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def models() -> dict[str, Any]:
    """A small one of each task."""
    torch.manual_seed(0)
    return {
        "classification": mv.create_model(
            "classification", width=0.35, taps=("block2",), names=("a", "b"), image_size=32
        ),
        "detection": mv.create_model(
            "detection", width=0.1, taps=("block3.expand", "block6"), num_classes=2, image_size=64
        ),
        "segmentation": mv.create_model(
            "segmentation", width=0.1, taps=("block3",), num_classes=2, image_size=33, head_channels=8
        ),
    }


def replace_a_leaf(tree: Any, rng: random.Random) -> Any:
    """The same JSON with one value, key or element of it changed, lost or doubled."""
    if isinstance(tree, dict) and tree and rng.random() < 0.9:
        key = rng.choice(list(tree))
        if rng.random() < 0.1:
            return {name: value for name, value in tree.items() if name != key}
        if rng.random() < 0.1:
            return {(name + "x" if name == key else name): value for name, value in tree.items()}
        return tree | {key: replace_a_leaf(tree[key], rng)}
    if isinstance(tree, list) and tree and rng.random() < 0.6:
        at = rng.randrange(len(tree))
        return [*tree[:at], replace_a_leaf(tree[at], rng), *tree[at + rng.randrange(2) :]]
    return rng.choice(ODD)


def damage_model(content: bytes, rng: random.Random) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])
    tensors = [name for name in header if name != "__metadata__"]
    kind = rng.randrange(10)
    if kind < 4:
        data = json.loads(header["__metadata__"]["mnv2vision"])
        for _ in range(rng.choice((1, 1, 2))):
            part = rng.choice(("backbone_options", "preprocessing", "preprocessing", "heads", None))
            model = data.get("model") if isinstance(data, dict) else None
            if part is None or not isinstance(model, dict) or not isinstance(model.get(part), dict):
                data = replace_a_leaf(data, rng)
            elif part == "backbone_options" and rng.random() < 0.5:
                options = ("width", "padding", "norm_eps", "norm_momentum", "in_channels", "expansion")
                model[part][rng.choice(options)] = rng.choice(ODD)
            else:
                model[part] = replace_a_leaf(model[part], rng)
        header["__metadata__"]["mnv2vision"] = json.dumps(data)
    elif kind == 4:
        deep = rng.choice(
            ("[" * 100_000, '{"a":' * 50_000, "9" * 5000, '{"config": ' + "9" * 5000 + "}", "\x00", "[1,", "NaN")
        )
        header["__metadata__"]["mnv2vision"] = deep
    elif kind == 5:
        names = rng.sample(tensors, rng.choice((1, len(tensors))))
        dtype = rng.choice(DTYPES)
        header |= {name: header[name] | {"dtype": dtype} for name in names}
    elif kind == 6:
        name, key = rng.choice(tensors), rng.choice(("shape", "data_offsets", "dtype"))
        header[name] = header[name] | {key: replace_a_leaf(header[name][key], rng)}
    elif kind == 7:
        start, stop = header[rng.choice(tensors)]["data_offsets"]
        value = rng.choice((float("nan"), float("inf"), -float("inf"), 3e38, -1.0, -100.0))
        if header["backbone.stem.conv.weight"]["dtype"] == "F32" and stop - start >= 4:
            body[start : start + 4] = np.float32(value).tobytes()
    elif kind == 8:
        raw = bytearray(content)
        for _ in range(rng.choice((1, 4, 32))):
            raw[rng.randrange(8 + length)] ^= 1 << rng.randrange(8)
        return bytes(raw)
    else:
        return content[: rng.randrange(len(content))]
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + bytes(body)


def assert_one_line(message: str, start: str = "") -> None:
    assert message.startswith(start)
    assert "\n" not in message
    assert len(message) < 1000
    assert "weights_only" not in message  # torch's advice to execute what is in the file


def run_models(count: int, seed: int, folder: Path) -> Counter[str]:
    """Outcomes of so many damaged model files, loaded and predicted with."""
    rng = random.Random(seed)
    path = folder / "model.safetensors"
    originals = []
    for model in models().values():
        mv.save(model, path)
        originals.append(path.read_bytes())
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        path.write_bytes(damage_model(rng.choice(originals), rng))
        try:
            model = mv.load(path)
        except WeightsError as error:
            assert_one_line(str(error), str(path))
            outcomes["refused"] += 1
            continue
        try:
            if max(model.preprocessing.image_size) > 1000:
                continue  # a large input is no fault, but takes time
            prediction = mv.Predictor(model, device="cpu")(PHOTO)
        except Mnv2visionError as error:
            assert_one_line(str(error))
            outcomes["refused by its predictions"] += 1
            continue
        scores = getattr(prediction, "scores", np.zeros(1))
        assert np.isfinite(scores).all()
        outcomes["loaded"] += 1
    return outcomes


def run_states(count: int, seed: int, folder: Path) -> Counter[str]:
    """Outcomes of so many damaged state dictionaries: by torch, new and old, in checkpoints, and PaddlePaddle's."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    state = {f"layer{i}.weight": torch.randn(3, 4) for i in range(4)}
    files: list[tuple[str, bytes]] = []
    for wrapped in (state, {"state_dict": state, "epoch": 3}, {f"module.{key}": value for key, value in state.items()}):
        for new in (True, False):
            buffer = io.BytesIO()
            torch.save(wrapped, buffer, _use_new_zipfile_serialization=new)
            files.append(("x.pth", buffer.getvalue()))
    files.append(("x.pdparams", pickle.dumps({key: value.numpy() for key, value in state.items()}, protocol=2)))
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        name, content = rng.choice(files)
        raw = bytearray(content)
        kind = rng.randrange(4)
        if kind == 0:
            raw = raw[: rng.randrange(len(raw))]
        elif kind == 1 and raw.startswith(b"PK"):  # within the pickle, the archive's checksums mended
            raw = bytearray(with_pickle(content, lambda pickled: flipped(pickled, rng)))
        elif kind == 2:
            start = rng.randrange(len(raw))
            raw[start : start + rng.choice((1, 8, 100))] = rng.randbytes(rng.choice((1, 8, 100)))
        else:
            raw = bytearray(flipped(content, rng))
        path = folder / name
        path.write_bytes(raw)
        try:
            tensors = (read_pdparams if name.endswith("pdparams") else read_state)(path)
        except WeightsError as error:
            assert_one_line(str(error), str(path))
            outcomes["refused"] += 1
        else:
            assert all(isinstance(value, torch.Tensor) for value in tensors.values())
            outcomes["read"] += 1
    return outcomes


def flipped(data: bytes, rng: random.Random) -> bytes:
    raw = bytearray(data)
    for _ in range(rng.choice((1, 2, 16))):
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return bytes(raw)


def with_pickle(archive: bytes, change: Any) -> bytes:
    """The archive of `torch.save` with another pickle in it."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data) if name.endswith("data.pkl") else data)
    return made.getvalue()


@pytest.mark.parametrize("seed", range(2))
def test_damaged_model_files(seed: int, tmp_path: Path) -> None:
    outcomes = run_models(600, seed, tmp_path)
    assert outcomes["refused"] > 300
    assert outcomes["loaded"] > 20  # another mean, or a weight of another value, is a model


def test_damaged_state_dictionaries(tmp_path: Path) -> None:
    outcomes = run_states(3000, 0, tmp_path)
    assert outcomes["refused"] > 1000
    assert outcomes["read"] > 20


class Hostile:
    """Unpickled, it calls."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def test_hostile_pickles_are_refused_and_not_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    calls = [
        (os.system, f"touch {marker}"),
        (exec, f"open({str(marker)!r}, 'w')"),
        (eval, f"open({str(marker)!r}, 'w')"),
        (open, str(marker), "w"),
        (Path.touch, marker),
        (os.mkdir, str(marker)),
        (getattr, "os", "system"),
        (__import__, "os"),
    ]
    for number, (function, *arguments) in enumerate(calls):
        attack = Hostile(function, *arguments)
        for place in (
            attack,
            {"a": attack},
            {"state_dict": {"a": attack}},
            [attack],
            {"a": torch.zeros(2), "b": attack},
        ):
            for protocol in range(6):
                path = tmp_path / f"{number}.pth"
                path.write_bytes(pickle.dumps(place, protocol=protocol))
                with pytest.raises(WeightsError, match=r"\.pth: not a state dictionary") as caught:
                    read_state(path)
                assert "weights_only" not in str(caught.value)
                with pytest.raises(WeightsError, match=r"not a readable \.pdparams file"):
                    read_pdparams(path)
            torch.save(place, path)
            with pytest.raises(WeightsError, match=r"it refers to .*, which weights do not need"):
                read_state(path)
    assert not marker.exists()
