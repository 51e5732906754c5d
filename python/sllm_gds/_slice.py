"""Indices of a slice, as safetensors' `get_slice` takes them."""

from __future__ import annotations

import operator
from typing import Any, Sequence

from ._errors import refuse


def indices(index: Any, shape: Sequence[int]) -> list[slice | int]:
    """For each axis a number from 0 on, or a slice whose start, stop and step are numbers within it."""
    if isinstance(index, list):
        if index:
            raise refuse("Non empty lists are not implemented")
        index = slice(0, 0)
    items = index if isinstance(index, tuple) else (index,)
    dots = sum(item is Ellipsis for item in items)
    if dots > 1:
        raise refuse("Only one ellipsis (...) is allowed in slice index")
    if len(items) - dots > len(shape):
        raise refuse(f"{len(items) - dots} indices for a tensor of shape {list(shape)}, which has {len(shape)} axes")
    rest = len(shape) - (len(items) - dots)
    spread: list[Any] = []
    for item in items if dots else (*items, Ellipsis):
        spread += [slice(None)] * rest if item is Ellipsis else [item]
    return [_index(item, axis, shape, items) for axis, item in enumerate(spread)]


def _index(item: Any, axis: int, shape: Sequence[int], items: Sequence[Any]) -> slice | int:
    extent = shape[axis]

    def past(number: int) -> Exception:
        shown = ", ".join(_shown(item) for item in items)
        return refuse(f"Error during slicing [{shown}] with shape {list(shape)}: index {number} out of bounds for tensor dimension #{axis} of size {extent}")

    if isinstance(item, slice):
        step = 1 if item.step is None else operator.index(item.step)
        if step < 1:
            raise refuse(f"Slice step must be a positive integer, got {step}")
        stop = extent if item.stop is None else operator.index(item.stop)
        if stop > extent:
            raise past(stop - 1)
        start, stop, _ = slice(item.start, stop).indices(extent)
        return slice(start, max(start, stop), step)
    try:
        number = operator.index(item)
    except TypeError as error:
        raise refuse(f"index {item!r}: numbers, slices and ... are taken") from error
    if number < -extent:
        raise refuse(f"Invalid index {number} for dimension {axis} of size {extent}")
    if number >= extent:
        raise past(number)
    return number % extent


def _shown(item: Any) -> str:
    if not isinstance(item, slice):
        return "..." if item is Ellipsis else str(item)
    start, stop = ("" if end is None else str(end) for end in (item.start, item.stop))
    return f"{start}:{stop}" + ("" if item.step in (None, 1) else f":{item.step}")
