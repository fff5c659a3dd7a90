"""An unmodified script on our losses: PyTorch's names lead here for a while."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from lossless import losses, transforms
from lossless.errors import MissingTorchError, ParameterError

if TYPE_CHECKING:
    from lossless._torch.patch import Patch


def patch_torch(*, also: Iterable[str] = (), skip: Iterable[str] = ()) -> "Patch":
    """PyTorch's losses become ours, for code that is not changed: `with lossless.patch_torch() as routed: ...`.

    In effect from the call on, as `torch.set_grad_enabled` is: until the `with` block ends, or until `restore()`. As a
    decorator it is in effect while the function runs. `lossless run train.py` does the same from the shell.

    Replaced are the functions of `torch.nn.functional`, `torch` and `torch.special` and the methods of tensors, and so
    the modules of `torch.nn`; names that other modules have imported before; and `torchvision.ops.sigmoid_focal_loss`.
    Everything is restored in the end, after an exception too. Patches nest: the innermost one decides.

    Routed are `cross_entropy`, `nll_loss`, `binary_cross_entropy_with_logits`, `kl_div`, `mse_loss`,
    `sigmoid_focal_loss`, `log_softmax` and `logsumexp`. Left to PyTorch, unless `also` names them, are
    `binary_cross_entropy` (PyTorch's is right to 2 ulp, and faster), `softmax` (attention needs it fast, and ours would
    keep the scores for the backward pass), `logsigmoid`, `sigmoid` and `logit` (as right as one can want, and ours many
    times slower).

    Args:
        also: names of functions to route as well.
        skip: names of functions to leave to PyTorch.

    Returns:
        The patch: `calls` lists every function and line that called it, how often, whether it was routed, and why not
        (losses that lossless does not have are listed too); `str()` of it is a table; `restore()` ends it.

    Raises:
        ParameterError: a name that is not one of the functions above.
        MissingTorchError: PyTorch is not installed.

    Edges:
        It holds for the whole process, all threads and forked children, but not for processes started afresh. What ours
        refuse (complex or sparse tensors, `out=`, ...) PyTorch answers, and the account says so; if PyTorch refuses
        too, the error is ours, of a type that PyTorch raises. Tensors of other classes than PyTorch's own go to
        PyTorch; one that looks functions up in a table of its own may miss those that are replaced. Without a `dim`
        softmax keeps PyTorch's rule and its warning. In compiled code the account counts how often a compiler has read
        a line, not how often it ran, and methods of tensors stay PyTorch's there. `torch.jit.script` compiles
        PyTorch's own. Not found are functions that somebody has stored elsewhere than in a module, as a default
        argument or in a list. A coroutine or generator is not decorated: use `with` inside it.

    Example:
        >>> import torch
        >>> from torch.nn import functional as F
        >>> x, y = torch.tensor([[20.0, 0.0]]), torch.tensor([0])
        >>> with patch_torch() as routed:
        ...     F.cross_entropy(x, y).item()
        2.06115369216775e-09
        >>> F.cross_entropy(x, y).item()
        0.0
        >>> [(call.function, call.calls, call.routed) for call in routed.calls]
        [('torch.nn.functional.cross_entropy', 1, True)]
    """
    try:
        from lossless._torch.patch import DEFAULT, NAMES, Patch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingTorchError() from None
    also, skip = _names("also", also, NAMES), _names("skip", skip, NAMES)
    names = [name for name in (*DEFAULT, *also) if name not in skip]
    functions: dict[str, Callable[..., Any]] = {
        name: getattr(losses, name, None) or getattr(transforms, name) for name in NAMES
    }
    return Patch(functions, names, skip)


def _names(option: str, names: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in known:
            raise ParameterError(f"patch_torch: {option} got {name!r}, expected one of {', '.join(known)}")
    return names
