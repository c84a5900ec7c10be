"""Models to and from a hub, which is a local server that speaks its protocol."""

import json
from pathlib import Path

import pytest
import torch

import mnv2vision as mv
from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.weights.convert import describe


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    names = ("ant", "bee", "cat")
    model = mv.create_model("classification", width=0.35, names=names, image_size=96)
    mv.save(model, tmp_path / "run" / "model.safetensors", provenance={"source": "nowhere"})
    (tmp_path / "run" / "metrics.json").write_text(json.dumps({"top1": 0.91234, "top5": 1.0}))
    return tmp_path / "run" / "model.safetensors"


def test_a_model_goes_there_and_comes_back(hub, model_file: Path) -> None:
    assert mv.push_to_hub(model_file, "someone/insects", token="secret") == "hf://someone/insects"
    assert hub.tokens == {"Bearer secret"}
    assert hub.contents["someone/insects/model.safetensors"] == model_file.read_bytes()
    model, mine = mv.load("hf://someone/insects"), mv.load(model_file)
    assert model.names == ("ant", "bee", "cat")
    assert all(torch.equal(value, mine.state_dict()[key]) for key, value in model.state_dict().items())
    images = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(images), mine(images), rtol=1e-4, atol=1e-5)


def test_the_card_tells_figures_preprocessing_and_use(hub, model_file: Path) -> None:
    mv.push_to_hub(model_file, "someone/insects", licence="mit")
    card = hub.contents["someone/insects/README.md"].decode()
    assert card.startswith("---\nlicense: mit\nlibrary_name: mnv2vision\npipeline_tag: image-classification\n---\n")
    for told in (
        "# insects",
        "| top1 | 0.9123 |",
        "width=0.35",
        "96 x 96 pixels",
        "[0.485, 0.456, 0.406]",
        'mv.load("hf://someone/insects")',
        "Classes: ant, bee, cat.",
        "Origin: source nowhere.",
    ):
        assert told in card


def test_the_card_of_several_heads(hub, tmp_path: Path) -> None:
    heads = {"classification": {"names": ["ant", "bee"]}, "detection": {"num_classes": 3}}
    mv.save(mv.create_model(heads, width=0.35, image_size=96), tmp_path / "model.safetensors")
    mv.push_to_hub(tmp_path / "model.safetensors", "someone/both")
    card = hub.contents["someone/both/README.md"].decode()
    for told in (
        "Classification, 2 classes; Detection, 3 classes. Backbone: mobilenet_v2, output_stride=32, width=0.35.",
        "Classes of classification: ant, bee.",
    ):
        assert told in card
    described = json.loads(describe(str(tmp_path / "model.safetensors")))
    assert described["heads"]["classification"]["names"] == ["ant", "bee"]
    assert described["heads"]["detection"]["num_classes"] == 3
    assert described["backbone_options"]["width"] == 0.35


def test_given_figures_stand_above_those_beside_the_file(hub, model_file: Path) -> None:
    mv.push_to_hub(model_file, "someone/insects", metrics={"top1": 0.5})
    card = hub.contents["someone/insects/README.md"].decode()
    assert "| top1 | 0.5000 |" in card
    assert "top5" not in card


def test_what_is_not_there_is_named(hub) -> None:
    with pytest.raises(WeightsError, match=r"hf://someone/else/model\.safetensors: download failed \(.+\)"):
        mv.load("hf://someone/else")


def test_a_bad_address(hub) -> None:
    with pytest.raises(ConfigError, match="hf://insects: expected hf://<owner>/<repository>"):
        mv.load("hf://insects")


def test_offline_mode_uses_what_is_kept(hub, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mv.push_to_hub(model_file, "someone/insects")
    mv.load("hf://someone/insects")
    hub.contents.clear()
    monkeypatch.setenv("MNV2VISION_OFFLINE", "1")
    assert mv.load("hf://someone/insects").names == ("ant", "bee", "cat")
    with pytest.raises(WeightsError, match="not downloaded, offline mode is on"):
        mv.load("hf://someone/else")


def test_a_hub_that_refuses(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match="hf://someone/insects: publishing failed"):
        mv.push_to_hub(model_file, "someone/insects", token="secret")


def test_a_foreign_file_is_not_published(hub, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="corrupt"):
        mv.push_to_hub(tmp_path / "model.safetensors", "someone/insects")
    assert hub.contents == {}
