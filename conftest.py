"""Names that docstring examples may use without importing them."""

import numpy
import pytest

import lossless


@pytest.fixture(autouse=True)
def names(doctest_namespace: dict[str, object]) -> None:
    doctest_namespace.update(np=numpy, lossless=lossless)
