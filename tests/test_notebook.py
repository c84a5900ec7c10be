"""The documentation's notebook runs, and shows what it trained."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs/notebook.ipynb"


@pytest.mark.slow
def test_the_notebook(tmp_path: Path, patience: float) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=int(patience), resources={"metadata": {"path": str(tmp_path)}}).execute()
    _, _, train, show, predict = notebook.cells
    progress = "".join(output.text for output in train.outputs if output.output_type == "stream")
    assert "80 samples, drawn at random, are held out" in progress
    assert "top1 " in progress
    page = show.outputs[0].data["text/html"]
    shown = re.findall(r"<p>(\w+)<br><img src=\"data:image/png;base64,", page)
    assert shown[0] == "predictions"
    assert {"calibration", "confusion"} <= set(shown)
    assert "<td>top1</td>" in page
    assert "upright" in predict.outputs[0].data["text/plain"]
