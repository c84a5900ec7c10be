"""The precision to train in, on any PyTorch."""

import pytest
import torch

from mnv2vision.training.precision import best_precision


@pytest.mark.parametrize(("has_amx", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_bfloat16_needs_matrix_instructions(monkeypatch, has_amx, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx, raising=False)
    assert best_precision("cpu") == expected


def test_a_pytorch_without_the_private_query(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert best_precision("cpu") == "32-true"
