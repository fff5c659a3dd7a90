"""Messages that say which file they are about."""

from collections.abc import Iterator
from contextlib import contextmanager

from lossless.errors import EvaluationError

from .text import printable


@contextmanager
def about(path: object) -> Iterator[None]:
    """Begin the messages of the block with the file."""
    try:
        yield
    except EvaluationError as error:
        raise EvaluationError(f"{printable(str(path))}: {error}") from None
