"""The compiled kernels. Arrays are contiguous NumPy arrays or torch CPU tensors; `native/module.cpp` checks them."""

from collections.abc import Callable
from typing import Any

STATE_ROWS: int
LARGE_TRAFFIC: int

def row_statistics(
    x: Any,
    outer: int,
    classes: int,
    inner: int,
    target: Any,
    weight: Any,
    prior: Any,
    ignore_index: int | None,
    nll: Any,
    lse: Any,
    entropy: Any,
    prior_cost: Any,
    correct: Any,
    state: Any,
    temperature: float = 1.0,
) -> int: ...
def row_numbers(
    x: Any,
    rows: int,
    classes: int,
    label: Any,
    surprise: Any,
    lse: Any,
    entropy: Any,
    squares: Any,
    largest: Any,
    lead: Any,
    rank: Any,
    peak: Any,
    hash: Any,
) -> None: ...
def temper(d: Any, rows: int, classes: int, beta: float, total: Any, mean: Any, square: Any) -> None: ...
def add_exactly(limbs: Any, groups: int, values: Any, group: Any) -> int: ...
def count_changes(key: Any, changes: Any) -> None: ...
def cells_of_both(key: Any, level: int, to_key: Any, several: Any, counts: Any) -> None: ...
def join_cells(
    key: Any, order: Any, several: Any, counts: Any, level: int, to_key: Any, to_several: Any, to_counts: Any
) -> None: ...
def count_between(edge: Any, value: Any, counts: Any) -> None: ...
def count_marked(scale: float, value: Any, mark: Any, bin: Any, counts: Any) -> None: ...
def count_each(index: Any, counts: Any) -> None: ...
def row_statistics_backward(
    x: Any,
    outer: int,
    classes: int,
    inner: int,
    target: Any,
    weight: Any,
    prior: Any,
    ignore_index: int | None,
    state: Any,
    d_nll: Any,
    d_lse: Any,
    d_entropy: Any,
    d_prior: Any,
    dx: Any,
    temperature: float = 1.0,
) -> None: ...
def entropy(
    x: Any, outer: int, classes: int, inner: int, entropy: Any, state: Any, g: float, dx: Any, temperature: float = 1.0
) -> None: ...
def row_loss(
    x: Any,
    outer: int,
    classes: int,
    inner: int,
    target: Any,
    weight: Any,
    ignore_index: int | None,
    link: tuple[float, float, float, float],
    loss: Any,
    state: Any,
    divisor: float | None,
    g: float,
    dx: Any,
    temperature: float = 1.0,
) -> tuple[int, float, float]: ...
def row_loss_backward(
    x: Any,
    outer: int,
    classes: int,
    inner: int,
    target: Any,
    weight: Any,
    ignore_index: int | None,
    link: tuple[float, float, float, float],
    state: Any,
    g: Any,
    divisor: float,
    dx: Any,
    temperature: float = 1.0,
) -> None: ...
def nll(
    x: Any, outer: int, classes: int, inner: int, target: Any, weight: Any, ignore_index: int | None, loss: Any
) -> tuple[int, float, float]: ...
def nll_backward(
    dx: Any,
    outer: int,
    classes: int,
    inner: int,
    target: Any,
    weight: Any,
    ignore_index: int | None,
    g: Any,
    divisor: float,
) -> None: ...
def softmax(
    x: Any, outer: int, classes: int, inner: int, out: Any, temperature: float = 1.0, state: Any = None
) -> None: ...
def log_softmax(
    x: Any, outer: int, classes: int, inner: int, out: Any, temperature: float = 1.0, state: Any = None
) -> None: ...
def softmax_backward(
    x: Any,
    outer: int,
    classes: int,
    inner: int,
    g: Any,
    dx: Any,
    temperature: float = 1.0,
    state: Any = None,
    result: Any = None,
) -> None: ...
def log_softmax_backward(
    x: Any, outer: int, classes: int, inner: int, g: Any, dx: Any, temperature: float = 1.0, state: Any = None
) -> None: ...
def pointwise(
    kind: str,
    x: Any,
    target: Any,
    weight: Any,
    pos_weight: Any,
    focal: tuple[float, float],
    value: Any,
    g: float,
    divisor: float,
    dx: Any,
) -> float: ...
def pointwise_backward(
    kind: str,
    x: Any,
    target: Any,
    weight: Any,
    pos_weight: Any,
    focal: tuple[float, float],
    g: Any,
    divisor: float,
    dx: Any,
) -> None: ...
def isa() -> str: ...
def available_isas() -> list[str]: ...
def use_isa(name: str) -> None: ...
def write_past_caches(least: int) -> None: ...  # of so many bytes in all; LARGE_TRAFFIC unless a test asks for less
def get_num_threads() -> int: ...
def set_num_threads(threads: int) -> None: ...
def use_torch_threads(parallel_for: int, get_num_threads: int) -> None: ...
def set_torch(side: Any) -> None: ...
def ordinary(*tensors: Any) -> bool: ...
def call_form(args: tuple[Any, ...], kwargs: dict[str, Any], taken: tuple[Any, ...]) -> tuple[Any, ...] | None: ...
def go_straight(
    function: Callable[..., Any], ways: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any], watch: Any, /
) -> Any: ...

class tensors:  # a module
    class Recycler:
        def __init__(self, limit: int, side: Any) -> None: ...
        def empty_like(self, x: Any) -> Any: ...
        def forget(self) -> None: ...
        @property
        def remembered(self) -> int: ...

    @staticmethod
    def set_kernels(side: Any) -> None: ...
    @staticmethod
    def transform(name: str, x: Any, plan: Any) -> Any: ...
    @staticmethod
    def transform_backward(name: str, x: Any, plan: Any, g: Any, result: Any) -> Any: ...
    @staticmethod
    def class_loss(x: Any, target: Any, weight: Any, plan: Any, state: Any) -> tuple[Any, float]: ...
    @staticmethod
    def class_loss_backward(
        x: Any, target: Any, weight: Any, state: Any, plan: Any, divisor: float, g: Any, dx: Any
    ) -> Any: ...
    @staticmethod
    def nll(x: Any, target: Any, weight: Any, plan: Any) -> tuple[Any, float]: ...
    @staticmethod
    def nll_backward(x: Any, target: Any, weight: Any, plan: Any, divisor: float, g: Any) -> Any: ...
    @staticmethod
    def pointwise(
        functor: Any, x: Any, target: Any, weight: Any, pos_weight: Any, reduction: str, divisor: float
    ) -> Any: ...
    @staticmethod
    def elementwise(functor: Any, x: Any) -> Any: ...
    @staticmethod
    def pointwise_backward(
        functor: Any, x: Any, target: Any, weight: Any, pos_weight: Any, divisor: float, g: Any, dx: Any
    ) -> Any: ...

class functions:  # a module; of each Function (ctx, *its arguments), and (ctx, g)
    @staticmethod
    def set_functions(side: Any) -> None: ...
    @staticmethod
    def forget_plans() -> None: ...
    @staticmethod
    def expected(plan: Any) -> float | None: ...
    softmax_forward: Callable[..., Any]
    softmax_backward: Callable[..., Any]
    log_softmax_forward: Callable[..., Any]
    log_softmax_backward: Callable[..., Any]
    elementwise_forward: Callable[..., Any]
    elementwise_backward: Callable[..., Any]
    entropy_forward: Callable[..., Any]
    entropy_backward: Callable[..., Any]
    class_loss_forward: Callable[..., Any]
    class_loss_backward: Callable[..., Any]
    nll_forward: Callable[..., Any]
    nll_backward: Callable[..., Any]
    pointwise_forward: Callable[..., Any]
    pointwise_backward: Callable[..., Any]

def is_one_number(array: Any) -> bool: ...
