"""The modules: PyTorch's own in every respect but the digits."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import lossless
from lossless import nn

pytestmark = pytest.mark.usefixtures("path")


def test_a_confident_right_answer():
    x = torch.tensor([[20.0, 0.0]], requires_grad=True)
    loss = nn.CrossEntropyLoss()(x, torch.tensor([0]))
    loss.backward()
    tiny = np.float32(2.0611537e-09)
    assert loss.item() == tiny
    assert x.grad.tolist() == [[-tiny, tiny]]


def test_options_are_those_of_pytorch():
    x, y, w = torch.randn(4, 3), torch.tensor([0, 1, 2, 1]), torch.tensor([1.0, 2.0, 3.0])
    for options in (
        {"weight": w},
        {"ignore_index": 1},
        {"reduction": "none"},
        {"label_smoothing": 0.2, "weight": w, "reduction": "sum"},
    ):
        ours, theirs = nn.CrossEntropyLoss(**options), torch.nn.CrossEntropyLoss(**options)
        torch.testing.assert_close(ours(x, y), theirs(x, y))
        if "ignore_index" not in options:
            torch.testing.assert_close(ours(x, x.softmax(1)), theirs(x, x.softmax(1)))


def test_it_stands_in_for_pytorchs():
    module = nn.CrossEntropyLoss(weight=torch.ones(3))
    assert isinstance(module, torch.nn.CrossEntropyLoss)
    assert list(module.state_dict()) == list(torch.nn.CrossEntropyLoss(weight=torch.ones(3)).state_dict())
    module.load_state_dict({"weight": torch.tensor([1.0, 2.0, 3.0])})
    assert module.double().weight.dtype is torch.float64


def test_it_is_imported_when_asked_for():
    code = "import sys, lossless; assert 'torch' not in sys.modules; lossless.nn; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert lossless.nn is nn
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        lossless.nonsense  # noqa: B018
