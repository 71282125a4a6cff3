"""Signals that ask a process to end are noted; outside the main thread nothing changes."""

import os
import signal
import threading

import pytest

from monai_betavae.training.preemption import ENDING, EndingSignals, Preempted


@pytest.fixture(autouse=True)
def handlers():
    before = {name: signal.getsignal(getattr(signal, name)) for name in ENDING}
    yield before
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


@pytest.mark.parametrize("name", ENDING)
def test_a_signal_is_noted_and_ends_nothing(name):
    ending = EndingSignals()
    ending.listen()
    os.kill(os.getpid(), getattr(signal, name))
    assert ending.received == getattr(signal, name)


def test_another_thread_takes_no_signals(handlers):
    thread = threading.Thread(target=EndingSignals().listen)
    thread.start()
    thread.join()
    assert {name: signal.getsignal(getattr(signal, name)) for name in ENDING} == handlers


def test_the_status_is_that_of_shells():
    with pytest.raises(SystemExit) as ended:
        raise Preempted(signal.SIGUSR1)
    assert (ended.value.code, ended.value.name) == (138, "SIGUSR1")
