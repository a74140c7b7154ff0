"""Where a refresh is: what it reports while it works."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """`step` of `steps` within one phase; the loss only while it trains."""

    phase: str
    step: int
    steps: int
    loss: float | None = None


Report = Callable[[Progress], None]
