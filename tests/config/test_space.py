"""What a search tries is read and checked before anything starts, in one line."""

from pathlib import Path

import pytest

from mnv2vision.cli.main import main
from mnv2vision.config.compose import load_config
from mnv2vision.config.schema import Tune
from mnv2vision.config.space import Dimension, check_space, parse_space
from mnv2vision.errors import ConfigError


def test_entries() -> None:
    space = [
        Dimension("optimizer.lr", "log", (1e-4, 0.1)),
        Dimension("ema.decay", "uniform", (0.0, 0.99)),
        Dimension("freeze", "int", (0, 5)),
        Dimension("optimizer.name", "choice", choices=("sgd", "adamw")),
    ]
    typed = "optimizer.lr=log(1e-4, 1e-1),ema.decay=uniform(0,0.99),freeze=int(0,5),optimizer.name=choice(sgd,adamw)"
    assert parse_space([typed]) == parse_space(typed.split(",")) == space
    for argument in (f"tune.space=[{typed}]", f"tune.space={typed}"):  # a list, which commas cut anywhere
        assert parse_space(load_config(Tune, [argument]).tune.space) == space
    assert [dimension.typed(value) for dimension, value in zip(space, (0.01, 0.5, 3, "sgd"), strict=True)] == [
        "optimizer.lr=0.01",
        "ema.decay=0.5",
        "freeze=3",
        "optimizer.name=sgd",
    ]


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("", "tune.space=<what to search> is required"),
        ("optimizer.lr", "'optimizer.lr' is none of 'key=log(a,b)'"),
        ("optimizer.lr=0.1", "'optimizer.lr=0.1' is none of"),
        ("optimizer.lr=log(1,2", "is none of"),
        ("optimizer.lr=logarithmic(1,2)", "logarithmic is unknown; valid: log, uniform, int, choice"),
        ("optimizer.lr=log(0,1)", "log takes two numbers above 0, the lower one first"),
        ("optimizer.lr=log(1)", "log takes two numbers above 0"),
        ("optimizer.lr=log(1,2,3)", "log takes two numbers above 0"),
        ("optimizer.lr=uniform(2,1)", "uniform takes two numbers, the lower one first"),
        ("optimizer.lr=uniform(0,inf)", "uniform takes two numbers"),
        ("optimizer.lr=uniform(nan,1)", "uniform takes two numbers"),
        ("freeze=int(0,2.5)", "int takes two whole numbers, the lower one first"),
        ("optimizer.name=choice(sgd)", "choice takes two values or more"),
        ("optimizer.name=choice(sgd,sgd)", "all different"),
        ("freeze=int(0,5),freeze=int(1,2)", "freeze is given twice"),
        ("task=choice(classification,detection)", "task is the same in all trials"),
        ("tune.trials=int(1,2)", "tune.trials is the same in all trials"),
    ],
)
def test_refused_entries(entry: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_space([entry])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("optimizer.lrr=log(1e-4,1)", "tune.space: unknown key optimizer.lrr; did you mean optimizer.lr?"),
        ("ema.decay=uniform(0,1)", "tune.space: ema.decay=1.0: ema.decay takes a number of 0 or more and below 1"),
        (
            "loader.batch_size=uniform(8,64)",
            "tune.space: loader.batch_size=8.0: loader.batch_size takes a whole number",
        ),
        (
            "backbone=choice(mobilenet_v2,mobilenet_v9)",
            "tune.space: backbone=mobilenet_v9 is unknown; valid: mobilenet",
        ),
        ("optimizer=choice(sgd,adamw)", "tune.space: optimizer=sgd: optimizer is a section"),
    ],
)
def test_the_schema_is_asked(entry: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_space(parse_space([entry]), [])
    assert str(caught.value).startswith(told)
    pytest.importorskip("optuna")
    assert main(["tune", f"tune.space={entry}", f"run_dir={tmp_path / 'search'}"]) == 2
    assert capsys.readouterr().err == f"error: {caught.value}\n"
    assert not (tmp_path / "search").exists()


def test_the_recipes_own_values() -> None:
    """Those of the shapes' recipe are lr 0.002 and adamw; ema.decay=0 is outside of its range."""
    entries = ["optimizer.lr=log(1e-4,1)", "optimizer.name=choice(sgd,adamw)", "ema.decay=uniform(0.5,0.9)"]
    assert check_space(parse_space(entries), []) == {"optimizer.lr": 0.002, "optimizer.name": "adamw"}
    backbones = parse_space(["backbone=choice(mobilenet_v1,mobilenet_v2)"])
    assert check_space(backbones, ["optimizer.lr=0.5"]) == {"backbone": "mobilenet_v2"}
