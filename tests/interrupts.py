"""Ctrl-C at a chosen moment."""

from __future__ import annotations

import gc
import signal
import sys
from _thread import interrupt_main


def interrupted(work, n: int) -> bool:
    """Run work, with a KeyboardInterrupt where Python looks for signals for the n-th time.

    Tell whether it looked so often. Between calls of C, that is where interrupts come from.
    """
    looks, over = 0, False

    def handler(signum, frame):
        nonlocal looks
        looks += 1
        if over:
            return
        if looks == n:
            raise KeyboardInterrupt
        again = map(interrupt_main, [signum])
        _ = [*again]  # no call of its own, behind which this function would be interrupted

    before = signal.signal(signal.SIGINT, handler)
    trace = sys.gettrace()
    gc.disable()  # its callbacks would be interrupted, and nobody could catch that
    try:
        sys.settrace(None)  # what measures coverage would be interrupted in each line
        interrupt_main()
        work()
        over = True
    except KeyboardInterrupt:
        return True
    finally:
        over = True
        sys.settrace(trace)
        gc.enable()
        signal.signal(signal.SIGINT, before)
    return False
