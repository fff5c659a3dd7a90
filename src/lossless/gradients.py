"""Values with gradients where no autograd is at hand."""

import sys
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

from lossless import losses
from lossless._dispatch import with_gradient
from lossless.errors import UnsupportedArrayError

Array = Any


def value_and_grad(loss: Callable[..., Array]) -> Callable[..., tuple[Array, Array]]:
    """Value and gradient: turns a loss into a function that also returns its gradient over the input.

        value_and_grad(loss)(input, target, **options) -> (loss(input, target, **options), d loss / d input)

    For training loops written in NumPy: the gradient comes from the same accurate kernels that serve PyTorch's
    autograd.

    Args:
        loss: a loss of this library, such as `lossless.cross_entropy`, or a `functools.partial` of one.

    Returns:
        A function of the loss's own arguments. The gradient has the shape and dtype of `input`, each element as
        accurate as in PyTorch. Of a loss with reduction="none" it is the gradient of the sum. Tensors work too, and
        come back detached.

    Raises:
        UnsupportedArrayError: `loss` is not a loss of this library (for other functions PyTorch's autograd is there).
        Whatever the loss raises.

    Edges:
        Those of the loss.

    Example:
        >>> value, grad = value_and_grad(lossless.cross_entropy)(np.array([[20.0, 0.0]], np.float32), np.array([0]))
        >>> value
        np.float32(2.0611537e-09)
        >>> grad
        array([[-2.0611537e-09,  2.0611537e-09]], dtype=float32)
    """
    function = loss
    while isinstance(function, partial):
        function = function.func
    if getattr(function, "__module__", "") != losses.__name__ or function.__name__.startswith("_"):
        raise UnsupportedArrayError(
            f"value_and_grad: loss got {loss!r}, expected a loss of this library, e.g. lossless.cross_entropy"
        )

    first = next(iter(signature(function).parameters))

    def call(*args: Any, **options: Any) -> tuple[Array, Array]:
        input, args = (args[0], args[1:]) if args else (options.pop(first, None), ())
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(input, torch.Tensor):
            with torch.enable_grad():
                leaf = input.detach().requires_grad_(input.is_floating_point())  # the loss refuses others by name
                value = loss(leaf, *args, **options)
                (grad,) = torch.autograd.grad(value.sum(), leaf)
            return value.detach(), grad
        value, grad = with_gradient(loss, input, *args, **options)
        return value, grad

    return call
