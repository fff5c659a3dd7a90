"""What the project promises about itself: names, imports, documentation, and the objects it is built from."""

import doctest
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lossless

ROOT = Path(__file__).parent.parent
OBJECTS = sorted(ROOT.glob("build/*/CMakeFiles/kernels_*/native/kernels.cpp.o"))

# The public functions of this version, positional arguments before "*"; PyTorch's where PyTorch has them.
SIGNATURES = {
    "softmax": "input, dim, *, temperature, dtype",
    "log_softmax": "input, dim, *, temperature, dtype",
    "logsumexp": "input, dim, keepdim",
    "nll_loss": "input, target, weight, size_average, ignore_index, reduce, reduction",
    "cross_entropy": (
        "input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing, *, dim, sample_weight, "
        "denominator, z_loss, temperature, inplace"
    ),
    "focal_loss": (
        "input, target, *, gamma, alpha, weight, ignore_index, reduction, dim, sample_weight, denominator, inplace"
    ),
    "categorical_cross_entropy": "input, target, *, from_logits, dim, label_smoothing, reduction",
    "sparse_categorical_cross_entropy": "input, target, *, from_logits, dim, ignore_class, reduction",
    "value_and_grad": "loss",
    "patch_torch": "*, also, skip",
    "sigmoid": "input",
    "logsigmoid": "input",
    "logit": "input, eps",
    "inverse_softmax": "input, dim, *, center",
    "binary_cross_entropy": (
        "input, target, weight, size_average, reduce, reduction, *, clamp, label_smoothing, ignore_index, "
        "sample_weight, denominator"
    ),
    "binary_cross_entropy_with_logits": (
        "input, target, weight, size_average, reduce, reduction, pos_weight, *, label_smoothing, ignore_index, "
        "sample_weight, denominator, inplace"
    ),
    "sigmoid_focal_loss": "inputs, targets, alpha, gamma, reduction",
    "kl_div": "input, target, size_average, reduce, reduction, log_target",
    "mse_loss": "input, target, size_average, reduce, reduction, weight",
    "rmse_loss": "input, target, *, reduction, dim",
    "row_statistics": "input, target, *, dim, prior, ignore_index, temperature",
    "info.entropy": "p, *, dim, base, kind, normalize, keepdim",
    "info.perplexity": "p, *, dim, kind, normalize, keepdim",
    "info.cross_entropy": "p, q, *, dim, base, kind, p_kind, q_kind, normalize, keepdim",
    "info.kl_divergence": "p, q, *, dim, base, kind, p_kind, q_kind, normalize, keepdim",
    "info.js_divergence": "p, q, *, dim, base, kind, p_kind, q_kind, normalize, keepdim",
    "info.k3": "logp, logq",
    "diagnose": "input, target, *, loss",
    "evaluate": (
        "files, *, logits, probs, log_probs, predictions, label, task, targets, on, by, class_names, ignore_index, "
        "surprising, workers, executor, progress"
    ),
    "compare": "a, b, *, workers, executor, progress, options",
    "save_page": "result, path",
}


def public(name):
    value = lossless
    for part in name.split("."):
        value = getattr(value, part)
    return value


def spelled(function):
    words, keyword_only = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            words, keyword_only = [*words, "*"], True
        words.append(parameter.name)
    return ", ".join(words)


@pytest.mark.parametrize(("name", "expected"), SIGNATURES.items())
def test_signatures(name, expected):
    assert spelled(public(name)) == expected


@pytest.mark.parametrize(
    "name",
    ["cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "mse_loss", "kl_div"],
)
def test_positional_arguments_and_defaults_are_pytorchs(name):
    functional = pytest.importorskip("torch.nn.functional")
    theirs = inspect.signature(getattr(functional, name)).parameters
    ours = inspect.signature(public(name)).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    assert [p.default for p in ours.values()][: len(theirs)] == [p.default for p in theirs.values()]


@pytest.mark.parametrize("name", SIGNATURES)
def test_public_docstrings_have_their_sections(name):
    text = inspect.getdoc(public(name))
    for section in ("Args:", "Returns:", "Raises:", "Edges:", "Example:", ">>> "):
        assert section in text, f"{name} has no {section}"
    for argument in inspect.signature(public(name)).parameters:
        assert f"{argument}:" in text or f"{argument}," in text, f"{name} does not document {argument}"


def test_every_public_function_has_its_signature_here():
    of_config = {"get_num_threads", "set_num_threads", "show_config"}
    functions = {n for n in lossless.__all__ if inspect.isfunction(getattr(lossless, n))} - of_config
    of_info = {
        f"info.{n}" for n, f in vars(lossless.info).items() if inspect.isfunction(f) and f.__module__ == "lossless.info"
    }
    assert set(SIGNATURES) == functions | {n for n in of_info if not n.startswith("info._")}


def test_every_loss_has_its_module():
    nn = pytest.importorskip("lossless.nn")
    modules = {n for n, c in vars(nn).items() if inspect.isclass(c) and c.__module__ == "lossless.nn" and n[0] != "_"}
    assert modules == {
        *(
            "Softmax",
            "LogSoftmax",
            "NLLLoss",
            "CrossEntropyLoss",
            "BCELoss",
            "BCEWithLogitsLoss",
            "MSELoss",
            "RMSELoss",
        ),
        *("KLDivLoss", "FocalLoss", "SigmoidFocalLoss", "CategoricalCrossEntropyLoss"),
        "SparseCategoricalCrossEntropyLoss",
    }
    for name in modules & set(vars(sys.modules["torch"].nn)):
        assert issubclass(getattr(nn, name), getattr(sys.modules["torch"].nn, name))


def test_every_public_name_exists():
    assert [name for name in lossless.__all__ if not hasattr(lossless, name)] == []


def test_import_brings_no_framework():
    script = (
        "import sys, lossless, numpy; lossless.cross_entropy(numpy.zeros((2, 3)), numpy.zeros(2, int)); "
        "print([m for m in ('torch', 'pyarrow', 'rich', 'jinja2', 'altair', 'scipy', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(not OBJECTS or not shutil.which("nm"), reason="no kernel objects in build/, or no nm to read them")
@pytest.mark.parametrize("item", OBJECTS, ids=lambda item: item.parent.parent.name)
def test_kernels_of_one_instruction_set_cannot_be_taken_for_another(item):
    """No weak symbol (the linker would keep one copy for all) and no static initialiser (it would run anywhere)."""
    lines = subprocess.run(["nm", "-C", item], capture_output=True, text=True, check=True).stdout.splitlines()
    kinds = [(line.split()[-2 if len(line.split()) > 1 else 0], line) for line in lines]
    assert [line for line in lines if " W " in line or " V " in line or " u " in line] == []
    assert [line for line in lines if "_GLOBAL__sub_I" in line] == []
    defined = [line for kind, line in kinds if " T " in line or " D " in line or " R " in line]
    assert len(defined) == 1
    assert "lossless_" in defined[0]


def test_readme_examples():
    pytest.importorskip("torch")
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testfile(str(ROOT / "README.md"), module_relative=False, optionflags=flags)
    assert result.attempted > 5
    assert result.failed == 0
