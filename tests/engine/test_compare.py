"""A joint model beside single ones, on the same images."""

from pathlib import Path

import pytest

import mnv2vision as mv
from mnv2vision.cli.main import main
from mnv2vision.data.formats.shapes import Shapes

pytestmark = pytest.mark.slow


def test_beside_single_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"classification": Shapes.names, "segmentation": Shapes.mask_names}
    joint = mv.create_model({name: {"names": own} for name, own in names.items()}, width=0.35, image_size=32)
    mv.save(joint, tmp_path / "joint.safetensors")
    for name in names:
        mv.save(joint.only(name), tmp_path / f"{name}.safetensors")
    arguments = ["eval", f"checkpoint={tmp_path / 'joint.safetensors'}", f"run_dir={tmp_path / 'no'}"]
    assert main([*arguments, f"compare=[{tmp_path / 'joint.safetensors'}]"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "joint.safetensors has the heads classification, segmentation: give models with one head" in error
    assert not (tmp_path / "no").exists()
    others = ",".join(str(tmp_path / f"{name}.safetensors") for name in names)
    common = ["dataset.val_size=9", "dataset.image_size=48", "loader.workers=0", "trainer.accelerator=cpu"]
    run = tmp_path / "run"
    assert (
        main(["eval", f"checkpoint={tmp_path / 'joint.safetensors'}", f"compare=[{others}]", *common, f"run_dir={run}"])
        == 0
    )
    table = (run / "compare.md").read_text()
    for metric in ("classification/top1", "segmentation/mIoU"):
        (line,) = [line for line in table.splitlines() if f"| {metric} " in line]
        assert "| +0.0000 |" in line
    assert "| multiply-adds |" in table
    assert "all of these" in table
