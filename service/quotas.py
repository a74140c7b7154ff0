"""How much a source may send: on average so many facts a minute.

A bucket of tokens a source, in this process: what it counts need not survive a restart, and of two
daemons each counts what it was sent.
"""

import math
import time
from collections.abc import Callable

from service.errors import OverQuota

MINUTE_S = 60.0


class Quotas:
    """Up to a minute's facts may come at once, and one request may be as large as any.

    A request is let in whole while the source has anything left, and what it takes too much is
    waited for afterwards: a list that is longer than the quota can be sent at all, and on average
    nobody gets more.
    """

    def __init__(
        self, per_minute: int | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}  # facts, and when there were so many

    def take(self, source: str, count: int) -> None:
        """Raises OverQuota, which says when to come again."""
        if self.per_minute is None:
            return
        now, per_second = self._clock(), self.per_minute / MINUTE_S
        left, since = self._left.get(source, (float(self.per_minute), now))
        left = min(self.per_minute, left + (now - since) * per_second)
        if left < 1:
            wait_s = max(1, math.ceil((1 - left) / per_second))
            raise OverQuota(
                f"The source {source} may send {self.per_minute} facts a minute "
                f"(facts.per_minute_of_source) and sent more; go on in {wait_s} s.",
                retry_after_s=wait_s,
            )
        self._left[source] = (left - count, now)

    def give_back(self, source: str, count: int) -> None:
        """What was taken and could not be stored."""
        if source in self._left:
            left, since = self._left[source]
            self._left[source] = (left + count, since)
