"""What torch.save wrote: a tensor, tensors by name, or a list of batches of them, as Lightning's predict gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossless.errors import EvaluationError

from ..errors import about
from ..stores import FilePath, base, beside, local
from ..text import safe, shown
from . import INDICES, PREDICTIONS
from .arrays import Member, native
from .mapped import MappedReader, name_of

_EXPECTED = "expected a tensor, a dict of tensors, or a list of batches that are all one or the other"


class PtReader(MappedReader):
    """Tensors, mapped into memory; nothing but tensors and plain containers is unpickled."""

    format = "PyTorch"

    def __init__(self, path: FilePath, file: int) -> None:
        self._ordered = False
        super().__init__(path, file)
        if self._ordered:
            number = next(column for column in self.table.values if column.name == INDICES)
            self.table = replace(self.table, row_number=number)

    def _contents(self, path: Path) -> list[Member]:
        found = _load(path)
        import torch

        self._blocks: dict[Any, list[NDArray[Any]]] = {}
        size = path.stat().st_size
        for batch in found if isinstance(found, list) else [found]:
            named = {name_of(path): batch} if isinstance(batch, torch.Tensor) else batch
            if not isinstance(named, dict) or (self._blocks and named.keys() != self._blocks.keys()):
                raise EvaluationError(f"holds {_kind(found)} with {_kind(batch)}, {_EXPECTED}")
            for name, tensor in named.items():
                if not isinstance(tensor, torch.Tensor):
                    raise EvaluationError(f"'{shown(name)}' is {_kind(tensor)}, {_EXPECTED}")
                self._blocks.setdefault(name, []).append(_array(tensor, name, size))
        names = [safe(str(name)) for name in self._blocks]
        if len(set(names)) < len(names):
            raise EvaluationError(f"has two tensors of one name ({shown(', '.join(names))}), expected a name for each")
        self._blocks = dict(zip(names, self._blocks.values(), strict=True))
        members = [_member(name, blocks) for name, blocks in self._blocks.items()]
        indices = self._indices()
        if indices is None or INDICES in names:
            return members
        if {member.rows for member in members} != {len(indices)}:
            raise EvaluationError(
                f"{INDICES} beside it has {len(indices)} numbers of rows, expected one for each row of "
                f"{', '.join(f'{shown(member.name)} ({member})' for member in members)}"
            )
        self._ordered, self._blocks[INDICES] = True, [indices]
        return [*members, _member(INDICES, [indices])]

    def _indices(self) -> NDArray[np.int64] | None:
        """The rows of the data set that the rows here are of, if a file beside this one has them."""
        name = base(self.path)
        other = name.replace(PREDICTIONS, INDICES)
        order = None if other == name else beside(self.path, other)
        if order is None:
            return None
        with about(f"beside it, {other}"):
            try:
                found = np.array(list(_numbers(_load(Path(local(order))))), np.int64)
            except (TypeError, OverflowError):
                raise EvaluationError("holds no numbers of rows in lists of batches") from None
        return found if len(found) else None  # Lightning leaves them out if it does not know the sampler

    def _slice(self, member: Member, first: int, end: int) -> NDArray[Any]:
        picked, start = [], 0
        for block in self._blocks[member.name]:
            if start < end and first < start + len(block):
                picked.append(block[max(first - start, 0) : end - start])
            start += len(block)
        if not picked:
            return np.zeros((end - first, *member.row_shape), member.dtype)
        return native(np.concatenate(picked))


def _load(path: Path) -> Any:
    """What torch.save wrote."""
    try:
        import torch
    except ModuleNotFoundError:
        raise EvaluationError(
            "written by torch.save, and PyTorch is not installed. Install torch, or save arrays where it is: "
            "numpy.savez('predictions.npz', logits=..., label=...)"
        ) from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # of a damaged pickle any may come
        why = str(error).partition("\n")[0].replace("\x1b[1m", "").replace("\x1b[0m", "")
        raise EvaluationError(
            "cannot be read by torch.load(weights_only=True), which reads nothing but tensors in lists and dicts: "
            f"{shown(why)}"
        ) from None


def _numbers(found: Any, lists: int = 3) -> Iterator[int]:
    """The numbers in lists of lists: of data loaders, of batches, of rows."""
    if type(found) is int:
        yield found
    elif isinstance(found, list) and lists:
        for value in found:
            yield from _numbers(value, lists - 1)
    else:
        raise TypeError


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}" + (f" of length {len(value)}" if isinstance(value, list | tuple | dict) else "")


def _array(tensor: Any, name: Any, size: int) -> NDArray[Any]:
    """A tensor of a file of so many bytes as an array, which shares its memory."""
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise EvaluationError(f"'{shown(name)}' is a tensor with layout {tensor.layout}, expected a dense one")
    if tensor.nbytes > size:
        raise EvaluationError(f"'{shown(name)}' says that it has {tensor.nbytes} bytes, in a file of {size}")
    tensor = tensor.detach().resolve_conj().resolve_neg()
    try:
        array: NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    except (TypeError, RuntimeError) as error:
        raise EvaluationError(f"'{shown(name)}': {shown(error)}") from None
    return array


def _member(name: str, blocks: Sequence[NDArray[Any]]) -> Member:
    """The batches of one name, as one array."""
    first = blocks[0]
    if len(blocks) > 1 and any(b.ndim == 0 or b.shape[1:] != first.shape[1:] or b.dtype != first.dtype for b in blocks):
        shapes = ", ".join(dict.fromkeys(f"{b.dtype.name} of shape {b.shape}" for b in blocks[:20]))
        raise EvaluationError(
            f"the batches of '{shown(name)}' differ ({shown(shapes)}), expected them to differ in rows"
        )
    shape = first.shape if len(blocks) == 1 else (sum(len(b) for b in blocks), *first.shape[1:])
    return Member(name, shape, False, first.dtype, 0)
