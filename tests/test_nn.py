"""The modules: PyTorch's own in every respect but the digits."""

import copy
import inspect
import io
import pickle
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


# name: (constructor arguments, options of the forward pass)
X, T = torch.randn(4, 3), torch.rand(4, 3)
MARKED = torch.where(T < 0.3, -1.0, T)
ELEMENTWISE = {
    "BCELoss": [{}, {"weight": torch.rand(3)}, {"reduction": "sum"}, {"reduction": "none"}],
    "BCEWithLogitsLoss": [{}, {"weight": torch.rand(3), "pos_weight": torch.rand(3)}, {"reduction": "none"}],
    "MSELoss": [{}, {"reduction": "sum"}, {"reduction": "none"}],
    "KLDivLoss": [{"reduction": "batchmean"}, {"reduction": "sum", "log_target": True}, {"reduction": "none"}],
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_losses_of_single_numbers_are_pytorchs(name):
    x = X.sigmoid() if name == "BCELoss" else X
    for options in ELEMENTWISE[name]:
        ours, theirs = getattr(nn, name)(**options), getattr(torch.nn, name)(**options)
        assert isinstance(ours, getattr(torch.nn, name))
        assert list(ours.state_dict()) == list(theirs.state_dict())
        torch.testing.assert_close(ours(x, T), theirs(x, T))


def test_losses_of_single_numbers_take_the_options_of_their_functions():
    s = torch.rand(4)
    options = {"label_smoothing": 0.1, "ignore_index": -1, "denominator": "weights"}
    assert torch.equal(
        nn.BCELoss(**options, clamp=None)(X.sigmoid(), MARKED, sample_weight=s),
        lossless.binary_cross_entropy(X.sigmoid(), MARKED, **options, clamp=None, sample_weight=s),
    )
    assert torch.equal(
        nn.BCEWithLogitsLoss(**options, pos_weight=torch.ones(3))(X, MARKED, sample_weight=s),
        lossless.binary_cross_entropy_with_logits(X, MARKED, **options, pos_weight=torch.ones(3), sample_weight=s),
    )
    assert torch.equal(nn.RMSELoss(dim=1)(X, T), lossless.rmse_loss(X, T, dim=1))
    assert torch.equal(nn.RMSELoss(reduction="sum", dim=0)(X, T), lossless.rmse_loss(X, T, reduction="sum", dim=0))
    assert torch.equal(nn.SigmoidFocalLoss()(X, T), lossless.sigmoid_focal_loss(X, T))
    assert torch.equal(nn.SigmoidFocalLoss(0.5, 1, "mean")(X, T), lossless.sigmoid_focal_loss(X, T, 0.5, 1, "mean"))


def test_a_sure_binary_score_still_learns():
    x = torch.tensor([20.0, 20.0], requires_grad=True)
    nn.BCEWithLogitsLoss(reduction="sum", label_smoothing=0.0, ignore_index=0)(x, torch.tensor([1.0, 0.0])).backward()
    assert x.grad.tolist() == [-np.float32(2.0611536e-09), 0]


# name: constructor arguments that are not the default, and what repr shows of them
CHOSEN = {
    "Softmax": ({"dim": 1}, "Softmax(dim=1)"),
    "LogSoftmax": ({"dim": 1}, "LogSoftmax(dim=1)"),
    "NLLLoss": ({"weight": torch.ones(3), "ignore_index": 1}, "NLLLoss()"),
    "CrossEntropyLoss": (
        {"weight": torch.ones(3), "z_loss": 0.1, "dim": -1, "denominator": torch.tensor(2.0)},
        "CrossEntropyLoss(dim=-1, z_loss=0.1)",
    ),
    "FocalLoss": ({"gamma": 1.0, "alpha": torch.ones(3), "denominator": "batch"},
                  "FocalLoss(gamma=1.0, denominator='batch')"),
    "CategoricalCrossEntropyLoss": ({"from_logits": True}, "CategoricalCrossEntropyLoss(from_logits=True)"),
    "SparseCategoricalCrossEntropyLoss": (
        {"from_logits": True, "ignore_class": 1},
        "SparseCategoricalCrossEntropyLoss(from_logits=True, ignore_class=1)",
    ),
    "BCELoss": ({"clamp": None, "reduction": "sum"}, "BCELoss(reduction='sum', clamp=None)"),
    "BCEWithLogitsLoss": (
        {"pos_weight": torch.ones(3), "denominator": torch.tensor(2.0), "label_smoothing": 0.1},
        "BCEWithLogitsLoss(label_smoothing=0.1)",
    ),
    "SigmoidFocalLoss": ({"alpha": 0.5, "gamma": 1}, "SigmoidFocalLoss(alpha=0.5, gamma=1)"),
    "MSELoss": ({"reduction": "sum"}, "MSELoss()"),
    "RMSELoss": ({"dim": 1}, "RMSELoss(dim=1)"),
    "KLDivLoss": ({"reduction": "batchmean", "log_target": True}, "KLDivLoss()"),
}  # fmt: skip
TARGETS = {
    **dict.fromkeys(("NLLLoss", "CrossEntropyLoss", "FocalLoss"), torch.tensor([0, 1, 2, 1])),
    "SparseCategoricalCrossEntropyLoss": torch.tensor([0, 1, 2, 1]),
}


def test_every_module_is_chosen_from():
    assert set(CHOSEN) == {
        n for n, c in vars(nn).items() if getattr(c, "__module__", "") == nn.__name__ and n[0] != "_"
    }


@pytest.mark.parametrize("name", CHOSEN)
def test_modules_are_configured_copied_and_moved_as_pytorchs_are(name):
    chosen, shown = CHOSEN[name]
    module = getattr(nn, name)(**chosen)
    assert repr(module) == shown
    assert isinstance(module, torch.nn.modules.loss._Loss) or name in ("Softmax", "LogSoftmax")
    for option, value in chosen.items():
        assert getattr(module, option) is value
    theirs = getattr(torch.nn, name, None)
    if theirs is not None:
        known = {k: v for k, v in chosen.items() if k in inspect.signature(theirs).parameters}
        theirs = theirs(**known)
        assert set(vars(theirs)) <= set(vars(module))
        assert list(theirs.state_dict()) == list(module.state_dict())
        module.load_state_dict(theirs.state_dict())
    tensors = {k for k, v in chosen.items() if isinstance(v, torch.Tensor)}
    assert {k for k, v in module.named_buffers()} == tensors
    assert {k for k, v in copy.deepcopy(module).double().named_buffers() if v.dtype is torch.float64} == tensors
    arguments = (X.sigmoid(), TARGETS.get(name, T))[: 1 if name.endswith("Softmax") else 2]
    value = module(*arguments)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(file, weights_only=False)):
        assert repr(twin) == shown
        assert torch.equal(twin(*arguments), value)


def test_a_softmax_without_dim_warns_where_it_is_called():
    for module in (nn.Softmax(), nn.LogSoftmax()):
        with pytest.warns(UserWarning, match="Implicit dimension choice") as caught:
            module(X)
        assert caught[0].filename == __file__


def test_it_is_imported_when_asked_for():
    code = "import sys, lossless; assert 'torch' not in sys.modules; lossless.nn; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert lossless.nn is nn
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        lossless.nonsense  # noqa: B018
