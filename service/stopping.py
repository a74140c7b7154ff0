"""How a signal ends a refresh: on the spot, or at the end of a step where that keeps its work."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from service.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopping:
    """SIGTERM and SIGINT become an error that unwinds, so that a refresh is ended properly.

    While stops are deferred, the first signal only sets `is_asked`; a second one is impatient and
    is not deferred.
    """

    def __init__(self) -> None:
        self._asked: str | None = None
        self._is_deferred = False

    @property
    def is_asked(self) -> bool:
        return self._asked is not None

    @contextmanager
    def listening(self) -> Iterator["Stopping"]:
        """Take the signals; only the main thread may."""
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """The block looks at `is_asked` itself, where it can stop without losing anything.

        Raises Stopped at its end where it did not look any more.
        """
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False
        if self._asked:
            raise Stopped(self._asked)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        is_first = self._asked is None
        self._asked = f"Stopped by {signal.Signals(number).name}."
        if not (self._is_deferred and is_first):
            raise Stopped(self._asked)
