"""Shared by all tests: the two paths that compute on the CPU."""

from importlib import import_module

import pytest

import ratchet
from lossless import _kernels, _straight
from lossless._numpy import backend


@pytest.fixture(params=["kernels", "reference"])
def path(request, monkeypatch):
    """Run the test on the compiled kernels, where there are any, and on the reference formulas."""
    if request.param == "kernels" and _kernels.native is None:
        pytest.skip(f"no compiled kernels: {_kernels.why}")
    if request.param == "reference":
        import_module("lossless._torch.backend")  # all of it, before it would find no kernels to import
        from lossless._torch import modes

        for module in (_kernels, backend, modes):
            monkeypatch.setattr(module, "native", None)
        monkeypatch.setattr(_straight, "closed", lambda: True)
    return request.param


@pytest.fixture
def forward_passes(monkeypatch):
    """Of Functions of the core: (what is called, its arguments with the context first), as they are called."""
    from lossless._torch import eager

    passes = []

    def noted(name, forward):
        return staticmethod(lambda *args: (passes.append((name, args)), forward(*args))[1])

    for function in eager.IN_CORE if _kernels.native else ():
        monkeypatch.setattr(function, "forward", noted(function.core, function.forward))
    return passes


def pytest_sessionfinish():
    """With LOSSLESS_RECORD, what was found becomes the record."""
    if ratchet.RECORDING and ratchet.found:
        ratchet.write()
