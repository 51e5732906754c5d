"""Loads into memory that there is, begun and waited for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Iterable, Sequence, Union

from . import _core
from ._loader import Loader
from ._parts import Part

#: Over which GPUs' links bytes come: `"auto"`, `"own"`, `"all"`, or GPUs by their numbers.
Links = Union[str, Sequence[Union[int, str]]]
#: Memory: the GPU's index or None for the host, address, bytes.
Given = tuple[Union[int, None], int, int]


@dataclass
class Group:
    """What is loaded together, as `_core` takes it: ranges where each part is one run of bytes, else tensors by name."""

    memory: list[Given]
    ranges: list[tuple[int, int, int, int]] = field(default_factory=list)
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    slices: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    after: int | None = None


def group_of(
    parts: Iterable[Part], given: Sequence[Given], places: Iterable[tuple[int, int]], after: Any = None, by_name: bool = False
) -> Group | None:
    """Parts with their places: in which of the memories that are given, and at which byte of it. None where they have no byte.

    Nothing is written before the event `after`, which must stay until the load has ended.
    """
    some = [(part, place) for part, place in zip(parts, places) if part.nbytes]
    if not some:
        return None
    used = {number: i for i, number in enumerate(sorted({place[0] for _, place in some}))}
    memory = [given[number] for number in used]
    event = None if after is None else after.cuda_event
    ranges = [part.range() for part, _ in some]
    if by_name or None in ranges:
        wanted = {part.name: (used[number], at) for part, (number, at) in some}
        slices = {part.name: (part.axis, part.start, part.stop) for part, _ in some if part.axis is not None}
        return Group(memory, places=wanted, slices=slices, after=event)
    # Tied tensors may have one place.
    once = dict.fromkeys((span[0], span[1], used[number], at) for span, (_, (number, at)) in zip(ranges, some) if span is not None)
    return Group(memory, ranges=list(once), after=event)


class Loads:
    """Loads under way. Their memory must stay until `wait` or `close` has returned: they write until then."""

    def __init__(self) -> None:
        self._loads: list[tuple[Loader, _core.Load]] = []
        #: What must live as long.
        self._kept: list[Any] = []

    def begin(
        self,
        checkpoint: _core.Checkpoint,
        parts: Sequence[Part],
        given: Sequence[Given],
        places: Sequence[tuple[int, int]],
        keeper: Loader,
        verify: bool,
        links: Links | None = None,
        after: Any = None,
    ) -> None:
        """Begins to load parts to their places, as `group_of` takes them. What other ranks want, too, is read through the page
        cache, so that it comes from storage once."""
        self._kept.append(after)
        for is_shared in (False, True):
            some = [(part, place) for part, place in zip(parts, places) if part.is_shared is is_shared]
            group = group_of([part for part, _ in some], given, [place for _, place in some], after, verify)
            if group is None:
                continue
            chosen = keeper._buffered() if is_shared else keeper
            chosen._used_gpu |= group.memory[0][0] is not None
            self._loads.append((chosen, chosen._core.start(checkpoint, group, verify=verify, links=links)))

    def wait(self) -> None:
        """Waits for all; the first error stops the others."""
        failed: BaseException | None = None
        for keeper, load in self._loads:
            try:
                keeper.report = load.wait()
            except BaseException as error:
                failed = failed or error
                for _, other in self._loads:
                    other.cancel()
        self._loads.clear()
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Stops them."""
        for _, load in self._loads:
            load.cancel()
        for _, load in self._loads:
            load.close()
        self._loads.clear()
