"""What `lossless evaluate` raises: what is wrong with the input, where, and what to do about it."""

from collections.abc import Iterator
from contextlib import contextmanager

from lossless.errors import LosslessError


class EvaluationError(LosslessError, ValueError):
    """The predictions cannot be evaluated as they are."""


class MissingExtraError(LosslessError, ImportError):
    """A package that reads this format is not installed."""

    def __init__(self, module: str) -> None:
        super().__init__(f"this needs {module}, which is not installed: pip install 'lossless[evaluate]'")


@contextmanager
def about(path: str) -> Iterator[None]:
    """Begin messages from the block with the file that they are about."""
    try:
        yield
    except EvaluationError as error:
        raise EvaluationError(f"{path}: {error}") from None
