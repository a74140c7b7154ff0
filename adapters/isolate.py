"""Which facts make a training diverge: halves are tried until single ones are left. Pure."""

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def find_poison(items: Sequence[T], diverges: Callable[[Sequence[T]], bool]) -> list[T]:
    """The items that diverge on their own, out of items that diverge together.

    With p of n at fault it takes about 2 p log2(n) trials. Empty where two halves are each
    harmless, and so no single item is at fault.
    """
    if len(items) == 1:
        return list(items)
    middle = len(items) // 2
    halves = (items[:middle], items[middle:])
    return [item for half in halves if diverges(half) for item in find_poison(half, diverges)]
