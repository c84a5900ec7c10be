"""The table of published weights for the documentation.

python -m mnv2vision.weights.table > docs/published_weights.md
"""

from mnv2vision.weights.entries import list_weights
from mnv2vision.weights.entry import Entry

_HEAD = """# Published weights by name

`mv.load(name)`, `checkpoint=name`, `init_from=name` and `mnv2vision convert name=name` take these names. The file is
downloaded from its publisher, checked, converted once and cached ([weights.md](weights.md)).

- *published*: the publisher's metrics, in percent.
- *SHA-256*: the first eight digits of the published file's hash, and who states it. A download or a local copy with
  another hash is refused. {known} of {count} files have one. Files on the Hugging Face hub have theirs on their page on
  the hub; it is not recorded here.
- *state*: how far the conversion was verified; nothing is claimed beyond it.

This page is written by `python -m mnv2vision.weights.table`.

| name | classes | published | licence | SHA-256 | state |
|---|---|---|---|---|---|
"""


def table() -> str:
    """The page, in Markdown."""
    entries = list_weights()
    known = sum(bool(entry.digest) for entry in entries)
    return _HEAD.format(known=known, count=len(entries)) + "".join(f"{_row(entry)}\n" for entry in entries)


def _row(entry: Entry) -> str:
    metrics = ", ".join(f"{name} {value:g}" for name, value in entry.metrics.items()) or "–"
    name = f"[`{entry.name}`]({entry.location})" if entry.location.startswith("http") else f"`{entry.name}`"
    digest = f"`{entry.digest[:8]}` ({entry.digest_source})" if entry.digest else entry.digest_source
    return f"| {name} | {entry.classes} | {metrics} | {entry.licence} | {digest} | {entry.state} |"


if __name__ == "__main__":
    print(table(), end="")
