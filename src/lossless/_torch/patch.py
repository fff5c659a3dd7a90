"""PyTorch's losses replaced by ours, and an account of every call: the machinery of `lossless.patch_torch`.

Attributes are replaced (`torch.nn.functional.cross_entropy`, `torch.Tensor.log_softmax`, ...), not the operations
below them: a mode that watches operations would cost microseconds on every one of a model's. A replacement is made
once, lives on, and asks its route what to do, so one that somebody has kept does what PyTorch's own function does when
the patch is gone.
"""

import functools
import importlib.abc
import importlib.machinery
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ContextDecorator
from types import BuiltinFunctionType, FrameType, FunctionType, MethodDescriptorType, ModuleType, TracebackType
from typing import Any, Literal, NamedTuple, Self, TypeVar

import torch
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function

from lossless._torch import account, backend  # the backend takes PyTorch's own functions: before we replace them
from lossless._torch.account import Call
from lossless._torch.modes import PLAIN
from lossless.errors import LosslessError

Function = TypeVar("Function", bound=Callable[..., Any])

account.GO_BETWEENS.add(__file__)

# ---------------------------------------------------------------- what is replaced


class Site(NamedTuple):
    """One attribute through which scripts reach a function."""

    name: str
    """Of our function."""
    owner: Any
    attribute: str
    label: str


def _sites(name: str, **owners: Sequence[str]) -> list[Site]:
    modules = {
        "functional": (functional, "torch.nn.functional"),
        "torch": (torch, "torch"),
        "special": (torch.special, "torch.special"),
        "tensor": (torch.Tensor, "torch.Tensor"),
    }
    return [
        Site(name, modules[owner][0], attribute, f"{modules[owner][1]}.{attribute}")
        for owner, attributes in owners.items()
        for attribute in attributes
    ]


def _everywhere(name: str) -> list[Site]:
    return _sites(name, functional=[name], torch=[name], special=[name], tensor=[name])


LOSSES = (
    "cross_entropy",
    "nll_loss",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy",
    "kl_div",
    "mse_loss",
)
SITES = [
    *(site for name in LOSSES for site in _sites(name, functional=[name])),
    *_everywhere("log_softmax"),
    *_everywhere("softmax"),
    *_sites("logsumexp", torch=["logsumexp"], special=["logsumexp"], tensor=["logsumexp"]),
    *_sites("sigmoid", functional=["sigmoid"], torch=["sigmoid"], special=["expit"], tensor=["sigmoid"]),
    *_sites("logsigmoid", functional=["logsigmoid"]),
    *_sites("logit", torch=["logit"], special=["logit"], tensor=["logit"]),
]
TORCHVISION = "torchvision.ops.focal_loss"
"""Where `sigmoid_focal_loss` is, once somebody has imported it."""

LEFT = {
    "binary_cross_entropy": "PyTorch's is right to 2 ulp, and faster",
    "softmax": "attention needs it fast, and ours would keep the scores for the backward pass",
    "logsigmoid": "PyTorch's is right to 3 ulp, and faster",
}
"""Functions of ours that are not used unless asked for, and why; calls of these are counted."""
UNWATCHED = ("sigmoid", "logit")
"""Used if asked for, and else not even counted: they are not losses, and cost less than counting does."""
DEFAULT = (*(name for name in LOSSES if name not in LEFT), "sigmoid_focal_loss", "log_softmax", "logsumexp")
NAMES = (*DEFAULT, *LEFT, *UNWATCHED)

_FOREIGN = "lossless has no such loss"
_METHOD = "a compiler records the name of a method, whoever has it then: write torch.{} instead"

# ---------------------------------------------------------------- one function


class Route:
    """A function of PyTorch's, its replacement, and what that does at present."""

    def __init__(self, site: Site, original: Any, ours: Callable[..., Any] | None) -> None:
        self.site = site
        self.original = original
        self.mode: Literal["off", "routed", "left"] = "off"
        self.reason = LEFT.get(site.name, _FOREIGN)
        self.replacement = _replacement(self, original, ours or original)
        self.own = site.attribute in vars(site.owner)  # what a class inherits is restored by removing ours

    def install(self) -> bool:
        """Whether it was possible: somebody may have put something else there."""
        if getattr(self.site.owner, self.site.attribute) is not self.original:
            return False
        setattr(self.site.owner, self.site.attribute, self.replacement)
        return True

    def remove(self) -> None:
        if getattr(self.site.owner, self.site.attribute) is not self.replacement:
            return
        if self.own:
            setattr(self.site.owner, self.site.attribute, self.original)
        else:
            delattr(self.site.owner, self.site.attribute)


def _replacement(route: Route, original: Any, ours: Callable[..., Any]) -> Any:
    """The function that takes the place of `original`.

    Its globals are those of `original`, whose source torch.jit.script reads in its place.
    """
    compiling, overridden, plain, getframe = torch.compiler.is_compiling, has_torch_function, PLAIN, sys._getframe
    label, count, count_trace = route.site.label, account.count, account.count_trace
    trace, elsewhere, rescue, refusals = _trace, _elsewhere, _rescue, REFUSALS
    is_method, method = route.site.owner is torch.Tensor, _METHOD.format(route.site.attribute)
    # A method that PyTorch's function of that name calls: together they are one call.
    its_function = _routes.get(f"torch.nn.functional.{route.site.attribute}") if is_method else None
    wrapper = None if its_function is None else getattr(its_function.original, "__code__", None)

    def replacement(*args: Any, **kwargs: Any) -> Any:
        if is_method and compiling():
            if route.mode == "routed":
                count_trace(label, method)
            return original(*args, **kwargs)
        if route.mode == "routed":
            if compiling():
                return trace(route, ours, args, kwargs)
            values = (*args, *kwargs.values()) if kwargs else args
            if overridden(values) or not values or type(values[0]) not in plain:
                return elsewhere(route, args, kwargs, getframe(1))
            if wrapper is not None and getframe(1).f_code is wrapper:
                return original(*args, **kwargs)
            try:
                result = ours(*args, **kwargs)
            except refusals as error:
                return rescue(route, error, args, kwargs, getframe(1))
            count(label, getframe(1))
            return result
        if route.mode == "left":
            if compiling():
                count_trace(label, route.reason)
            elif wrapper is None or getframe(1).f_code is not wrapper:
                count(label, getframe(1), route.reason)
        return original(*args, **kwargs)

    names = getattr(original, "__globals__", None)
    if names is None:
        if operator := torch.jit._builtins._find_builtin(original):
            torch.jit._builtins._register_builtin(replacement, operator)
    else:
        replacement = FunctionType(replacement.__code__, names, original.__name__, None, replacement.__closure__)
    functools.update_wrapper(replacement, original)
    module, _, name = route.site.label.rpartition(".")
    if module == "torch.Tensor":
        module, name = "torch", f"Tensor.{name}"
    replacement.__module__, replacement.__qualname__ = module, name  # where pickle finds it, and PyTorch's own later
    return replacement


def _trace(route: Route, ours: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The call as a compiler reads it."""
    try:
        result = ours(*args, **kwargs)
    except REFUSALS:
        result = route.original(*args, **kwargs)
        account.count_trace(route.site.label, "lossless refused it; outside of the compiler it says why")
        return result
    account.count_trace(route.site.label)
    return result


def _elsewhere(route: Route, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType) -> Any:
    """A call that is not ours to answer: a mode wants to see it, or the arguments are no plain tensors."""
    values = (*args, *kwargs.values())
    kinds = [type(a) for a in values if isinstance(a, torch.Tensor) or hasattr(type(a), "__torch_function__")]
    odd = next((kind for kind in kinds if kind not in PLAIN), None)
    if odd is None and kinds and has_torch_function(values):
        # A mode, such as `torch.set_default_device` sets: it will call us again.
        return handle_torch_function(route.replacement, (), *args, **kwargs)
    nested, _elsewhere_now.on = getattr(_elsewhere_now, "on", False), True
    try:
        result = route.original(*args, **kwargs)
    finally:
        _elsewhere_now.on = nested
    if not nested:
        what = "the input is no tensor" if odd is None else f"{odd.__module__}.{odd.__qualname__} is no plain tensor"
        account.count(route.site.label, frame, what)
    return result


_elsewhere_now = threading.local()
"""Whether PyTorch is answering: the tensor class that it asks may call us again."""


REFUSALS = (LosslessError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Not every exception: `torch.utils.checkpoint` ends a computation with one of its own."""


def _rescue(route: Route, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType) -> Any:
    """PyTorch's answer to what we refused; if it refuses too, the message that says more, of the type it raises."""
    try:
        result = route.original(*args, **kwargs)
    except Exception as theirs:
        if isinstance(error, type(theirs)):
            raise error.with_traceback(None) from None
        raise
    account.count(route.site.label, frame, (str(error) or type(error).__name__).splitlines()[-1])
    return result


# ---------------------------------------------------------------- our functions under PyTorch's signatures


def _adapted(site: Site, ours: Callable[..., Any]) -> Callable[..., Any]:
    if site.name not in ("softmax", "log_softmax"):
        return ours
    name = site.name

    def transform(input: Any, dim: Any, dtype: Any = None) -> Any:
        if dtype is None and input.dtype in backend.HALVES and not input.is_cpu:
            # PyTorch's autocast does these in float32 on devices, and as they come on the CPU
            dtype = torch.float32 if torch.is_autocast_enabled(input.device.type) else None
        return ours(input, dim, dtype=dtype)

    def of_functional(input: Any, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
        if dim is None:
            dim = functional._get_softmax_dim(name, input.dim(), _stacklevel + 1)  # type: ignore[attr-defined]
        return transform(input, dim, dtype)

    transform.__qualname__ = of_functional.__qualname__ = name  # as an error names them
    return of_functional if site.owner is functional else transform


# ---------------------------------------------------------------- all functions


_routes: dict[str, Route] = {}
_active: list["Patch"] = []
_lock = threading.RLock()


def _renew_lock() -> None:
    """In a forked child: another thread of the parent may have held it."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


def _is_original(site: Site) -> bool:
    """Whether PyTorch's own function is still there, and not what somebody put in its place."""
    found = getattr(site.owner, site.attribute, None)
    if isinstance(found, BuiltinFunctionType | MethodDescriptorType):
        return True
    return isinstance(found, FunctionType) and found.__code__.co_filename == getattr(site.owner, "__file__", None)


def _present_sites() -> Iterable[Site]:
    yield from SITES
    mine = {site.attribute for site in SITES}
    for name in sorted(vars(functional)):
        if name.endswith(("_loss", "_cross_entropy")) and not name.startswith("_") and name not in mine:
            yield Site("", functional, name, f"torch.nn.functional.{name}")
    module = sys.modules.get(TORCHVISION)
    if hasattr(module, "sigmoid_focal_loss"):
        yield Site("sigmoid_focal_loss", module, "sigmoid_focal_loss", "torchvision.ops.sigmoid_focal_loss")


def _refresh() -> None:
    """Replace and restore, so that what is installed is what the innermost patch asks for."""
    patch = _active[-1] if _active else None
    if patch is not None:
        for site in _present_sites():
            if site.label not in _routes and _is_original(site):
                ours = patch.functions.get(site.name)
                ours = None if ours is None else _adapted(site, ours)
                _routes[site.label] = Route(site, getattr(site.owner, site.attribute), ours)
    _keep_compilers_table(patch is not None)
    installed, removed = [], []
    for route in _routes.values():
        name, before = route.site.name, route.mode
        if patch is None:
            route.mode = "off"
        elif name in patch.names:
            route.mode = "routed"
        else:
            route.mode = "off" if name in UNWATCHED else "left"
            route.reason = patch.reasons.get(name) or LEFT.get(name, _FOREIGN)
        if before == "off" != route.mode:
            if route.install():
                installed.append(route)
            else:
                route.mode = "off"
        elif before != "off" == route.mode:
            route.remove()
            removed.append(route)
    if installed:
        _rebind({id(r.original): r.replacement for r in installed}, ours=False)
    if removed:
        _rebind({id(r.replacement): r.original for r in removed}, ours=True)


def _rebind(replacements: Mapping[int, Any], ours: bool) -> None:
    """Module-level names that were bound to the one are bound to the other.

    PyTorch keeps its own names, so that nothing inside it changes; but what it has bound of `ours` it gives back.
    """
    for name, module in list(sys.modules.items()):
        package = name.partition(".")[0]
        if package == "lossless" or (package == "torch" and not ours):
            continue
        names = getattr(module, "__dict__", None)
        if not isinstance(names, dict) or not isinstance(module, ModuleType):
            continue
        for key, value in list(names.items()):
            new = replacements.get(id(value))
            if new is not None and value is not new:
                names[key] = new


def _keep_compilers_table(patched: bool) -> None:
    """What torch.compile puts into a graph unread is PyTorch's own, whenever it makes its list; ours it reads."""
    rules: Any = sys.modules.get("torch._dynamo.trace_rules")
    load = getattr(rules, "load_object", None)
    if isinstance(load, _LoadOriginal) and not patched:
        rules.load_object = load.load
    elif load is not None and not isinstance(load, _LoadOriginal) and patched:
        rules.load_object = _LoadOriginal(load)


class _LoadOriginal:
    def __init__(self, load: Callable[[str], Any]) -> None:
        self.load = load

    def __call__(self, name: str) -> Any:
        found = self.load(name)
        return next((route.original for route in _routes.values() if route.replacement is found), found)


class _Awaited(importlib.abc.MetaPathFinder):
    """Looks again when a module has been imported that is of interest: torchvision's loss, the compiler's table."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if fullname not in (TORCHVISION, "torch._dynamo.trace_rules"):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            with _lock:
                _refresh()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


_awaited = _Awaited()

# ---------------------------------------------------------------- the patch


class Patch(ContextDecorator):
    """What `lossless.patch_torch` returns: in effect from the start, until `restore` or the end of its block.

    `calls` is the account of what has been called since; `str` is a table of it.
    """

    def __init__(
        self, functions: Mapping[str, Callable[..., Any]], names: Iterable[str], skipped: Iterable[str]
    ) -> None:
        self.functions = functions
        self.names = frozenset(names)
        self.reasons = dict.fromkeys(skipped, "you asked for PyTorch's")
        self._depth = 0
        self._baseline: dict[Any, tuple[int, int]] = {}
        self._seen: dict[Any, tuple[int, int]] = {}
        self._start()
        self._entered = False

    def _start(self) -> None:
        with _lock:
            self._depth += 1
            if self._depth == 1:
                self._baseline = account.totals()
                _active.append(self)
                if _awaited not in sys.meta_path:
                    sys.meta_path.insert(0, _awaited)
                _refresh()

    def _stop(self) -> None:
        with _lock:
            if self._depth == 0:
                return
            if self._depth == 1:
                self._seen = self._totals()
            self._depth -= 1
            if self._depth == 0:
                _active.remove(self)
                if not _active and _awaited in sys.meta_path:
                    sys.meta_path.remove(_awaited)
                _refresh()

    def restore(self) -> None:
        """PyTorch's own functions again, unless another patch is still in effect."""
        while self._depth:
            self._stop()

    def __enter__(self) -> Self:
        if self._depth == 1 and not self._entered:
            self._entered = True  # in effect since it was made
        else:
            self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def __call__(self, function: Function) -> Function:
        """As a decorator it is in effect while the function runs, and not before."""
        if not self._entered:
            self._entered = True
            self._stop()
        return super().__call__(function)

    def _totals(self) -> dict[Any, tuple[int, int]]:
        totals = dict(self._seen)
        for key, (calls, traces) in (account.since(self._baseline) if self._depth else {}).items():
            before = self._seen.get(key, (0, 0))
            totals[key] = before[0] + calls, before[1] + traces
        return totals

    @property
    def calls(self) -> list[Call]:
        """Every function and line that called it: those routed first, then by file and line."""
        with _lock:
            return account.calls(self._totals())

    def __str__(self) -> str:
        return account.text(self.calls)
