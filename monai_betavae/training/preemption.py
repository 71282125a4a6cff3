"""Signals that ask a process to stop: from a scheduler that preempts it, or before a time limit."""

from __future__ import annotations

import signal
import threading
from types import FrameType

ENDING = ("SIGTERM", "SIGUSR1")
"""Signals that ask a run to stop: SIGTERM, sent by schedulers before they kill, and SLURM's ``--signal=USR1@120``."""


class EndingSignals:
    """Record a signal that asks this process to stop, instead of stopping at once.

    Attributes:
        received: number of the signal received, or ``None``.

    Example:
        >>> ending = EndingSignals()
        >>> ending.received is None
        True
    """

    def __init__(self) -> None:
        self.received: int | None = None

    def listen(self) -> None:
        """Install the signal handlers; outside the main thread, where Python can't, do nothing.

        Earlier handlers are replaced, since Lightning's write a checkpoint of their own in the middle of an epoch and
        stop the run at its end.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for name in ENDING:
            if hasattr(signal, name):  # Windows has no SIGUSR1
                signal.signal(getattr(signal, name), self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number


class Preempted(SystemExit):
    """Exit of a process after a signal, with the status that shells use: 128 plus the signal number.

    Attributes:
        name: name of the signal.

    Example:
        >>> ended = Preempted(15)
        >>> ended.code, ended.name
        (143, 'SIGTERM')
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name
