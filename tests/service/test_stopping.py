"""Signals: on the spot, or where the block lets them."""

import os
import signal
from collections.abc import Callable

import pytest

from service.errors import Stopped
from service.stopping import SIGNALS, Stopping


def send(number: signal.Signals = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def run(block: Callable[[Stopping], None]) -> None:
    with Stopping().listening() as stopping:
        block(stopping)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_block_on_the_spot_and_the_handlers_come_back(
    number: signal.Signals,
) -> None:
    def block(_: Stopping) -> None:
        send(number)
        pytest.fail("it went on")

    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=number.name):
        run(block)
    assert signal.getsignal(number) is before


def test_a_deferred_stop_waits_for_the_block_to_look_or_to_end() -> None:
    seen = []

    def block(stopping: Stopping) -> None:
        with stopping.deferred():
            seen.append(stopping.is_asked)
            send()
            seen.append(stopping.is_asked)
        pytest.fail("it went on after its end")

    with pytest.raises(Stopped, match="SIGTERM"):
        run(block)
    assert seen == [False, True]


def test_a_second_signal_is_not_deferred() -> None:
    def block(stopping: Stopping) -> None:
        with stopping.deferred():
            send()
            send()
            pytest.fail("it went on")

    with pytest.raises(Stopped):
        run(block)
