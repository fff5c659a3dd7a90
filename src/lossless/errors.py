"""What lossless raises and warns with.

Every error has two bases: the type PyTorch raises at that place, and the type a Python programmer expects, so an
`except` written for either keeps working. The first line of a message is PyTorch's own where PyTorch has one; the
lines below it say what was seen, where, and what to do.
"""

from typing import Self


class LosslessError(Exception):
    """Base of every error that lossless raises on purpose."""

    trouble = "refused"
    "The row of docs/troubleshooting.md that is about it."

    def about(self, trouble: str) -> Self:
        """This error, with another row than others of its class."""
        self.trouble = trouble
        return self


class LogitsDtypeError(LosslessError, NotImplementedError, TypeError):
    """The first argument is not an array of real floating point numbers."""

    trouble = "input-dtype"


class TargetDtypeError(LosslessError, RuntimeError, TypeError):
    """The labels or target probabilities have a dtype that does not fit their shape."""


class TargetIndexError(LosslessError, IndexError, ValueError):
    """A label is not one of the classes."""

    trouble = "label-out-of-range"


class DimensionError(LosslessError, IndexError, ValueError):
    """A dimension number that the array does not have."""


class ShapeError(LosslessError, RuntimeError, ValueError):
    """Two shapes that do not belong together, or a shape that no loss is defined for."""


class ParameterError(LosslessError, RuntimeError, ValueError):
    """An option outside its range, or two options that exclude each other."""


class UnsupportedArrayError(LosslessError, TypeError, RuntimeError):
    """An argument of a kind that lossless cannot compute with, or a mix of frameworks in one call."""


class EvaluationError(LosslessError, ValueError):
    """Saved predictions that cannot be evaluated as they are; the message begins with the file."""


class MissingExtraError(LosslessError, ImportError):
    """A package of an optional extra that is needed here and not installed."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(module, extra)  # what pickle makes it of again
        self.module, self.extra = module, extra

    def __str__(self) -> str:
        return f"this needs {self.module}, which is not installed: pip install 'lossless[{self.extra}]'"


class MissingTorchError(LosslessError, ImportError):
    """PyTorch is needed here and not installed."""

    def __str__(self) -> str:
        return "this needs PyTorch, which is not installed: https://pytorch.org/get-started/locally says how"


class LosslessWarning(UserWarning):
    """Base of every warning that lossless gives."""


class MisuseWarning(LosslessWarning):
    """A call that is most likely a mistake, though it has a result: what was seen, the likely cause, the fix.

    Once for each line that calls; `LOSSLESS_CHECKS=off` switches the search off.
    """
