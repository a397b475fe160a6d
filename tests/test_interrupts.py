"""An interrupt waits for the end of a step; a second one does not."""

import signal

import pytest

from bigramlib.interrupts import interrupts_deferred


@pytest.fixture
def interruptible():
    """Python's own handler of SIGINT, which shells take from what runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_interrupt_stops_at_once(interruptible):
    with pytest.raises(KeyboardInterrupt), interrupts_deferred() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
