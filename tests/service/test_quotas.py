"""What a source may send on average, whatever the sizes of its requests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import OverQuota
from service.quotas import MINUTE_S, Quotas


class Moment:
    """A clock that stands until it is told to go on."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_minutes_facts_may_come_at_once_and_then_they_trickle() -> None:
    clock = Moment()
    quotas = Quotas(60, clock=clock)
    for _ in range(60):
        quotas.take("team", 1)
    with pytest.raises(OverQuota, match=r"may send 60 facts a minute .* go on in 1 s\.") as refused:
        quotas.take("team", 1)
    clock.now_s += refused.value.retry_after_s
    quotas.take("team", 1)
    with pytest.raises(OverQuota):
        quotas.take("team", 1)


def test_what_could_not_be_stored_is_given_back() -> None:
    quotas = Quotas(10, clock=Moment())
    quotas.take("team", 10)
    quotas.give_back("team", 4)
    quotas.take("team", 4)
    with pytest.raises(OverQuota):
        quotas.take("team", 1)


def test_a_source_has_its_own() -> None:
    quotas = Quotas(1, clock=Moment())
    quotas.take("flood", 1)
    with pytest.raises(OverQuota):
        quotas.take("flood", 1)
    quotas.take("newsroom", 1)


def test_a_list_longer_than_the_quota_goes_in_whole_and_is_waited_for_afterwards() -> None:
    clock = Moment()
    quotas = Quotas(60, clock=clock)
    quotas.take("team", 600)
    with pytest.raises(OverQuota) as refused:
        quotas.take("team", 1)
    assert refused.value.retry_after_s == 600 - 60 + 1
    clock.now_s += refused.value.retry_after_s
    quotas.take("team", 1)


@given(
    per_minute=st.integers(1, 500),
    requests=st.lists(st.tuples(st.integers(1, 900), st.floats(0, 300)), max_size=60),
)
def test_on_average_nobody_gets_more(per_minute: int, requests: list[tuple[int, float]]) -> None:
    """What was let in before the last request is at most the minute's start and what came since."""
    clock = Moment()
    quotas = Quotas(per_minute, clock=clock)
    taken = 0
    for count, pause_s in requests:
        clock.now_s += pause_s
        try:
            quotas.take("team", count)
        except OverQuota:
            continue
        assert taken <= per_minute * (1 + clock.now_s / MINUTE_S) + 1e-6
        taken += count


def test_without_a_quota_all_may_come() -> None:
    Quotas(None).take("team", 10**9)
