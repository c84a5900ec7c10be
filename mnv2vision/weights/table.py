"""The table of published weights for the documentation.

python -m mnv2vision.weights.table > docs/published_weights.md
"""

from mnv2vision.weights.registry import Entry, list_weights

_HEAD = """# Published weights by name

`mv.load(name)`, `checkpoint=name`, `init_from=name` and `tools/convert.py name=name` take these names: the file is
downloaded from where its publisher keeps it, checked, converted once and kept ([weights.md](weights.md)). Metrics are
the publishers', in percent. *State* says what was seen of the conversion; nothing is claimed beyond it. This page is
written by `python -m mnv2vision.weights.table`.

| name | classes | published | licence | state |
|---|---|---|---|---|
"""


def table() -> str:
    """The page, in Markdown."""
    return _HEAD + "".join(f"{_row(entry)}\n" for entry in list_weights())


def _row(entry: Entry) -> str:
    metrics = ", ".join(f"{name} {value:g}" for name, value in entry.metrics.items()) or "–"
    name = f"[`{entry.name}`]({entry.location})" if entry.location.startswith("http") else f"`{entry.name}`"
    return f"| {name} | {entry.classes} | {metrics} | {entry.licence} | {entry.state} |"


if __name__ == "__main__":
    print(table(), end="")
