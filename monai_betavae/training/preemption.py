"""A process that is asked to end: by a scheduler that preempts it, or whose time limit is near."""

from __future__ import annotations

import signal
import threading
from types import FrameType

ENDING = ("SIGTERM", "SIGUSR1")
"""Signals that ask a run to end: what schedulers send before they kill, and SLURM's ``--signal=USR1@120``."""


class EndingSignals:
    """Note a signal that asks this process to end, in place of ending at once.

    Attributes:
        received: the number of the signal that came, ``None`` so far.

    Example:
        >>> ending = EndingSignals()
        >>> ending.received is None
        True
    """

    def __init__(self) -> None:
        self.received: int | None = None

    def listen(self) -> None:
        """Take the signals from now on; outside the main thread, where Python can't, nothing changes.

        Who listened before isn't called any more: Lightning's handlers write a checkpoint of their own in the middle of
        an epoch, and end the run at the end of it.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for name in ENDING:
            if hasattr(signal, name):  # Windows has no SIGUSR1
                signal.signal(getattr(signal, name), self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number


class Preempted(SystemExit):
    """The end of a process that was asked to, with the status that shells give: 128 and the signal's number.

    Attributes:
        name: of the signal.

    Example:
        >>> ended = Preempted(15)
        >>> ended.code, ended.name
        (143, 'SIGTERM')
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name
