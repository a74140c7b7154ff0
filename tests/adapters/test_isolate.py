"""Finding what makes a training diverge."""

from collections.abc import Sequence

import pytest

from adapters.isolate import find_poison


@pytest.mark.parametrize("poison", [{0}, {63}, {5, 6}, {1, 40, 41}])
def test_single_items_at_fault_are_found(poison: set[int]) -> None:
    trials = 0

    def diverges(some: Sequence[int]) -> bool:
        nonlocal trials
        trials += 1
        return bool(poison & set(some))

    assert set(find_poison(range(64), diverges)) == poison
    assert trials <= 2 * len(poison) * 6


def test_items_that_are_harmful_only_together_are_not_accused() -> None:
    assert find_poison(range(8), lambda some: len(some) > 4) == []


def test_where_everything_diverges_everything_is_found() -> None:
    assert find_poison(range(5), lambda _: True) == list(range(5))
