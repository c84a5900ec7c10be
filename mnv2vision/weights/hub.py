"""Models on the Hugging Face hub, by the optional `hub` extra."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.preprocessing import Preprocessing
from mnv2vision.weights import file
from mnv2vision.weights.download import home, offline

MODEL_FILE = "model.safetensors"
_PIPELINES = {
    "classification": "image-classification",
    "detection": "object-detection",
    "segmentation": "image-segmentation",
}


def _client() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise WeightsError("the Hugging Face hub needs pip install 'mnv2vision[hub]'") from error
    return huggingface_hub


def fetch(repository: str, name: str, revision: str | None = None) -> Path:
    """A file of a repository, downloaded by the hub's own client, which checks, resumes and keeps it.

    Args:
        repository: "<owner>/<name>".
        name: Of the file.
        revision: A branch, tag or commit; the main branch if None.

    Raises:
        WeightsError: If it cannot be had.
    """
    client = _client()
    try:
        path = client.hf_hub_download(
            repository,
            name,
            revision=revision,
            cache_dir=home() / "hub",
            local_files_only=offline(),
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
    except Exception as error:  # the client and the transport below it raise many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(f"hf://{repository}/{name}: cannot be had ({reason[:300]})") from error
    return Path(path)


def download_model(address: str) -> Path:
    """The model file of "hf://<owner>/<name>" or "hf://<owner>/<name>@<revision>"."""
    repository, _, revision = address.removeprefix("hf://").partition("@")
    if repository.count("/") != 1:
        raise ConfigError(f"{address}: an address on the hub is hf://<owner>/<repository>, optionally with @<revision>")
    return fetch(repository, MODEL_FILE, revision or None)


def push_to_hub(
    path: str | os.PathLike[str],
    repository: str,
    *,
    metrics: Mapping[str, float] | None = None,
    licence: str = "apache-2.0",
    private: bool = False,
    token: str | None = None,
) -> str:
    """Publish a model file with a card that tells its figures, its preprocessing and its use.

    Args:
        path: A file of a training run, `save` or tools/convert.py.
        repository: "<owner>/<name>"; created if it does not exist.
        metrics: Figures by name, such as those of `metrics.json`; that file's beside `path` by default.
        licence: Of the weights, as the hub writes it.
        private: Whether a new repository is.
        token: Of the hub; the one that `hf auth login` kept if None.

    Returns:
        The model's address for `mv.load`.

    Raises:
        WeightsError: If the file cannot be read, or the hub refuses.
    """
    path = Path(path)
    model = file.read(path)
    beside = path.parent / "metrics.json"
    if metrics is None:
        metrics = json.loads(beside.read_text()) if beside.is_file() else {}
    client = _client()
    api = client.HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    with tempfile.TemporaryDirectory() as folder:
        card = Path(folder) / "README.md"
        card.write_text(model_card(model, repository, metrics, licence))
        operations = [
            client.CommitOperationAdd(MODEL_FILE, path.read_bytes()),
            client.CommitOperationAdd("README.md", card.read_bytes()),
        ]
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            api.create_commit(repository, operations, commit_message="A model of mnv2vision")
        except Exception as error:  # the client and the transport below it raise many kinds
            reason = " ".join(str(error).split()) or type(error).__name__
            raise WeightsError(f"hf://{repository}: cannot be published ({reason[:300]})") from error
    return f"hf://{repository}"


def model_card(model: file.ModelFile, repository: str, metrics: Mapping[str, float], licence: str) -> str:
    """A repository's README: what the model is, its figures, its preprocessing, its use."""
    config, task = model.config, str(model.config["task"])
    preprocessing = Preprocessing.from_dict(dict(model.preprocessing))
    height, width = preprocessing.image_size
    options = {key: value for key, value in config.items() if key not in ("task", "backbone", "num_classes")}
    lines = [
        "---",
        f"license: {licence}",
        "library_name: mnv2vision",
        f"pipeline_tag: {_PIPELINES[task]}",
        "---",
        "",
        f"# {repository.partition('/')[2]}",
        "",
        f"{task.capitalize()} with {config['backbone']}, {config['num_classes']} classes"
        + (f", {', '.join(f'{key}={value}' for key, value in options.items())}" if options else "")
        + ".",
        "",
    ]
    if metrics:
        lines += ["| figure | value |", "|---|---|"]
        lines += [f"| {name} | {value:.4f} |" for name, value in metrics.items()]
        lines.append("")
    lines += [
        f"Input: {width} x {height} pixels, RGB, resized by `{preprocessing.resize}` ({preprocessing.interpolation}),"
        f" values in 0..1 less {list(preprocessing.mean)}, divided by {list(preprocessing.std)}."
        " `Predictor` does all this.",
        "",
        "```python",
        "import mnv2vision as mv",
        "",
        f'predict = mv.Predictor(mv.load("hf://{repository}"))',
        'print(predict("photo.jpg"))',
        "```",
        "",
    ]
    if model.names:
        shown = ", ".join(model.names[:100]) + (", …" if len(model.names) > 100 else "")
        lines += [f"Classes: {shown}.", ""]
    if model.provenance:
        told = ", ".join(f"{key} {value}" for key, value in model.provenance.items() if value)
        lines += [f"Converted: {told}.", ""]
    return "\n".join(lines)
