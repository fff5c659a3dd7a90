"""When a compiled kernel may serve a call: plain CPU tensors, and nobody watching the operations.

A kernel writes to memory behind PyTorch's back. Transforms (vmap, grad, jvp), tracers, compilers and dispatch modes
work by seeing every operation, so under any of them the reference formulas run instead: ordinary PyTorch operations.
Only torch.compile can be told about kernels (`operators`).
"""
# mypy: allow-subclassing-any

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.utils._python_dispatch import TorchDispatchMode

from lossless._kernels import native
from lossless.errors import UnsupportedArrayError

PLAIN = frozenset({Tensor, torch.nn.Parameter})
HALVES = (torch.float16, torch.bfloat16)

_C: Any = torch._C
_transforms_active = _C._are_functorch_transforms_active
_is_tracing = _C._is_tracing
_dispatch_keys, _CPU = _C._dispatch_keys, _C.DispatchKey.CPU
_dispatch_modes = _C._len_torch_dispatch_stack


def watched() -> bool:
    """Whether something follows the operations: a compiler, a transform, a tracer, or a dispatch mode."""
    return bool(is_compiling() or _transforms_active() or _dispatch_modes() or _is_tracing())


def carry_tangents() -> bool:
    """Whether tensors may carry tangents, of forward mode."""
    return bool(forward_ad._current_level >= 0)


def tracing() -> bool:
    """Whether a tracer follows, to which even sizes are symbols."""
    return bool(_is_tracing())


def seen_by_modes() -> bool:
    """Whether a dispatch mode sees every operation on tensors."""
    return bool(_dispatch_modes())


def ordinary(*tensors: Tensor | None) -> bool:
    """Whether the kernels may read these tensors now, as they lie, and none but the first requires a gradient."""
    return native is not None and not is_compiling() and native.ordinary(*tensors)


def kernels_serve(*tensors: Tensor | None) -> bool:
    """Whether the kernels may compute with these tensors now, once they are in memory."""
    return not (native is None or watched() or carry_tangents()) and _plain(tensors)


def operators_serve(*tensors: Tensor | None) -> bool:
    """Whether torch.compile may record the kernels, as operators, for these tensors."""
    if native is None or not is_compiling() or torch.compiler.is_exporting():
        return False
    return not (_transforms_active() or carry_tangents()) and _plain(tensors)


def _plain(tensors: tuple[Tensor | None, ...]) -> bool:
    for t in tensors:
        if t is not None and not (type(t) in PLAIN and t.is_cpu and t.layout is torch.strided):
            return False
    return True


def rules_fail() -> bool:
    """Whether PyTorch would drop or refuse the rules of a Function around this call.

    It forgets the tangent of a forward-mode rule under a second forward level, and has no rule to functionalize one.
    """
    if not _transforms_active():
        return False
    from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters

    kinds = [i.key() for i in retrieve_all_functorch_interpreters()]
    kind = _C._functorch.TransformType
    return kinds.count(kind.Jvp) > 1 or kind.Functionalize in kinds


def values_known(t: Tensor) -> bool:
    """Whether its numbers may be looked at, to raise on a bad one; where not, a bad label gives NaN.

    A transform or a dispatch mode hides only the tensors that it wraps, or, tracing, all of them.
    """
    if t.is_meta or type(t) not in PLAIN or is_compiling() or _is_tracing():
        return False
    if _transforms_active() and _C._functorch.is_functorch_wrapped_tensor(t):
        return False
    if _dispatch_modes():
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
        from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

        tracers = (FakeTensorMode, ProxyTorchDispatchMode)
        return not any(isinstance(mode, tracers) for mode in _get_current_dispatch_mode_stack())
    return True


def in_memory(t: Tensor) -> Tensor:
    """`t` as its memory shows it: contiguous, with a pending negation carried out."""
    return t if t.is_contiguous() and not t.is_neg() else t.resolve_neg().contiguous()


def all_in_memory(*tensors: Tensor | None) -> Any:
    for t in tensors:
        if t is not None and (not t.is_contiguous() or t.is_neg()):
            return [None if t is None else in_memory(t) for t in tensors]
    return tensors


def batched(g: Tensor) -> bool:
    """Whether an incoming gradient is a batch in disguise, as `is_grads_batched` makes them outside of torch.func."""
    return not _dispatch_keys(g).has(_CPU)


def needs_grad(*tensors: Tensor | None) -> bool:
    """Whether autograd is recording and one of these takes part."""
    if torch.is_grad_enabled():
        for t in tensors:
            if t is not None and t.requires_grad:
                return True
    return False


MAKERS = frozenset(
    f"{name}Backward0"
    for name in (
        "Addmm", "Mm", "Bmm", "Baddbmm", "Addbmm", "Convolution", "UpsampleNearest2D", "UpsampleBilinear2D",
        "Add", "Sub", "Mul", "Div", "Cat", "Stack", "Index", "Clone", "ToCopy",
    )
)  # fmt: skip
"""Operations whose result has memory of its own, and is nothing that their own gradients read."""


def may_be_overwritten(x: Tensor) -> bool:
    """Whether autograd vouches for it: one of these operations made `x`, or what it is a view of.

    Not of the others: a leaf's numbers are its own; `tanh` reads its result again; and what compiled code and custom
    Functions save is out of autograd's sight.
    """
    maker = (x if x._base is None else x._base).grad_fn
    while maker is not None and maker.name() == "UnsafeViewBackward0":
        maker = maker.next_functions[0][0]
    return maker is not None and not x.is_leaf and maker.name() in MAKERS


def share_memory(x: Tensor, *others: Tensor | None) -> bool:
    """Whether one of the others lies in the storage of `x`."""
    place = x.untyped_storage().data_ptr()
    return any(a is not None and a.untyped_storage().data_ptr() == place for a in others)


def check_supported(function: str, **tensors: Tensor | None) -> None:
    """Each is a dense tensor with memory behind it, which the reference formulas can compute with."""
    for name, t in tensors.items():
        if t is not None:
            _check_supported(function, name, t)


def _check_supported(function: str, name: str, t: Tensor) -> None:
    if type(t) not in PLAIN and not is_compiling():
        fake = sys.modules.get("torch._subclasses.fake_tensor")
        if fake is not None and isinstance(t, fake.FakeTensor):
            raise UnsupportedArrayError(
                f"{function}: {name} is a FakeTensor, which has a shape but no numbers: call {function} on real "
                "tensors, or inside torch.compile or torch.export"
            )
    if t.layout is not torch.strided:
        raise UnsupportedArrayError(
            f"{function}: {name} has layout {t.layout}, expected torch.strided: convert it with {name}.to_dense()"
        )


def _library(name: str) -> ctypes.CDLL:
    """One of PyTorch's own, which is loaded already; OSError or AttributeError where that is not to be had."""
    file = f"lib{name}.dylib" if sys.platform == "darwin" else f"lib{name}.so"
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / file), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)


def share_threads() -> None:
    """Let the kernels run in PyTorch's thread pool, so that two pools never compete for the cores.

    Where this PyTorch does not export its pool, the kernels keep their own.
    """
    try:
        library = _library("torch_cpu")
        functions = library.torch_parallel_for, library.torch_get_num_threads
    except (OSError, AttributeError):
        return
    native.use_torch_threads(*(ctypes.cast(f, ctypes.c_void_p).value for f in functions))


class _Bystander(TorchDispatchMode):
    """Sees no operation: none comes while it looks on."""


def use_libraries() -> None:
    """Let the core ask PyTorch's libraries, where it would ask Python's functions: in small calls that takes time.

    Whether something follows the operations shows in the dispatch keys of a thread. That is nothing that PyTorch
    documents, so it is tried out first.
    """
    try:
        cpu, python, c10 = (_library(name)._handle for name in ("torch_cpu", "torch_python", "c10"))
    except (OSError, AttributeError):
        return
    native.use_torch_libraries(cpu, python)
    native.use_dispatch_keys(c10)
    if not (native.has_usual_keys() and _keys_tell()):
        native.use_dispatch_keys(0)


def _keys_tell() -> bool:
    """Whether a dispatch mode, a transform and a tracer each show in the keys of this thread."""
    seen: list[bool] = []

    def look(x: Tensor) -> Tensor:
        seen.append(native.has_usual_keys())
        return x

    x = torch.zeros(())
    try:
        with _Bystander():
            look(x)
        _C._functorch._grad_increment_nesting()
        try:
            look(x)
        finally:
            _C._functorch._grad_decrement_nesting()
        _C._create_graph_by_tracing(look, (x,), lambda _: "", True, False, None, [])
    except Exception:  # another version of what is private to PyTorch
        return False
    return seen == [False, False, False]


class _Side:
    """What the core asks of PyTorch's functions (`native/torch.h`)."""

    plain_types = tuple(PLAIN)
    watchers = _transforms_active, _dispatch_modes, _is_tracing
    function_modes = _C._len_torch_function_stack
    forward_ad = forward_ad
    is_grad_enabled = torch.is_grad_enabled


if native is not None:
    native.set_torch(_Side)
    share_threads()
    use_libraries()
