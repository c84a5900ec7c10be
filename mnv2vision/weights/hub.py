"""Models on the Hugging Face hub; needs the optional `hub` extra."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnv2vision.common.cache import home
from mnv2vision.errors import ConfigError, WeightsError
from mnv2vision.weights import file
from mnv2vision.weights.download import no_way_to, offline

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
        raise WeightsError("the Hugging Face hub needs: pip install 'mnv2vision[hub]'") from error
    return huggingface_hub


def fetch(repository: str, name: str, revision: str | None = None) -> Path:
    """Download a file of a repository with the hub's own client, which resumes and caches downloads.

    Args:
        repository: "<owner>/<name>".
        name: The file's name in the repository.
        revision: A branch, tag or commit; the main branch if None.

    Returns:
        The path of the cached file.

    Raises:
        WeightsError: If the download fails.
    """
    client = _client()
    # Where it may not ask the hub, the client looks for a cached copy by itself.
    cut_off = (
        "offline mode is on" if offline() else no_way_to(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    )
    try:
        path = client.hf_hub_download(
            repository,
            name,
            revision=revision,
            cache_dir=home() / "hub",
            local_files_only=cut_off is not None,
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
    except Exception as error:  # the client and the transport below it raise many kinds
        if cut_off is not None and isinstance(error, client.errors.LocalEntryNotFoundError):
            raise WeightsError(f"hf://{repository}/{name}: not downloaded, {cut_off}") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(f"hf://{repository}/{name}: download failed ({reason[:300]})") from error
    return Path(path)


def download_model(address: str) -> Path:
    """Download the model file of "hf://<owner>/<name>" or "hf://<owner>/<name>@<revision>".

    Raises:
        ConfigError: For an address of another form.
        WeightsError: If the download fails.
    """
    repository, _, revision = address.removeprefix("hf://").partition("@")
    if repository.count("/") != 1:
        raise ConfigError(f"{address}: expected hf://<owner>/<repository>, optionally with @<revision>")
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
    """Publish a model file with a card that states its metrics, its preprocessing and its use.

    Args:
        path: A file written by a training run, `save` or `mnv2vision convert`.
        repository: "<owner>/<name>"; created if it does not exist.
        metrics: Figures by name; by default those of the `metrics.json` beside `path`, if there is one.
        licence: Licence of the weights, by the hub's identifier.
        private: Whether to make a new repository private.
        token: The hub's access token; the one stored by `hf auth login` if None.

    Returns:
        The model's address for `mv.load`.

    Raises:
        WeightsError: If the file cannot be read, or publishing fails.
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
            raise WeightsError(f"hf://{repository}: publishing failed ({reason[:300]})") from error
    return f"hf://{repository}"


def model_card(model: file.ModelFile, repository: str, metrics: Mapping[str, float], licence: str) -> str:
    """A repository's README: architecture, metrics, preprocessing, use, classes, origin.

    Args:
        model: The file's contents.
        repository: "<owner>/<name>".
        metrics: Figures by name.
        licence: By the hub's identifier.
    """
    config, preprocessing = model.config, model.config.preprocessing
    height, width = preprocessing.image_size
    heads = list(config.heads.items())
    told = [f"{name.capitalize()}, {_listed(f'{head.num_classes} classes', head.options)}" for name, head in heads]
    lines = [
        "---",
        f"license: {licence}",
        "library_name: mnv2vision",
        f"pipeline_tag: {_PIPELINES[heads[0][1].task]}",
        "---",
        "",
        f"# {repository.partition('/')[2]}",
        "",
        f"{'; '.join(told)}. Backbone: {_listed(config.backbone, config.backbone_options)}.",
        "",
    ]
    if metrics:
        lines += ["| figure | value |", "|---|---|"]
        lines += [f"| {name} | {value:.4f} |" for name, value in metrics.items()]
        lines.append("")
    lines += [
        f"Input: {width} x {height} pixels, RGB, resized by `{preprocessing.resize}` ({preprocessing.interpolation}),"
        f" values in 0..1, minus {list(preprocessing.mean)}, divided by {list(preprocessing.std)}."
        " `Predictor` does all of this.",
        "",
        "```python",
        "import mnv2vision as mv",
        "",
        f'predict = mv.Predictor(mv.load("hf://{repository}"))',
        'print(predict("photo.jpg"))',
        "```",
        "",
    ]
    for name, head in heads:
        if head.names:
            shown = ", ".join(head.names[:100]) + (", …" if len(head.names) > 100 else "")
            lines += [f"Classes{f' of {name}' if len(heads) > 1 else ''}: {shown}.", ""]
    if model.provenance:
        origin = ", ".join(f"{key} {value}" for key, value in model.provenance.items() if value)
        lines += [f"Origin: {origin}.", ""]
    return "\n".join(lines)


def _listed(first: str, options: Mapping[str, object]) -> str:
    return ", ".join([first, *(f"{key}={value}" for key, value in options.items())])
