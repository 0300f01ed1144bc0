"""Ctrl-C that works while Python waits for native code, such as XLA's compiler.

Python runs a signal's handler only between two of its own instructions. A thread here hears of
SIGINT at once, and ends the process if no handler has run within PATIENCE seconds.
"""

import os
import signal
import socket
import sys
import threading

PATIENCE = 1.0  # seconds for Python's own handler
SAVING = threading.Event()
"""Set while SIGINT is handled by saving first, as in the training loop: no process is ended."""


def listen() -> None:
    """Starts the thread; to be called once, by the main thread."""
    read, write = socket.socketpair()
    write.setblocking(False)
    signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
    listen.sockets = read, write  # pyright: ignore[reportFunctionMemberAccess]
    threading.Thread(target=_wait, args=(read,), daemon=True).start()


def leave() -> None:
    """Ends the process at once: XLA's threads, busy compiling, would crash on the way out."""
    sys.stdout.flush()
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(1)


def _wait(read: socket.socket) -> None:
    while data := read.recv(64):
        if signal.SIGINT in data and not SAVING.is_set():
            threading.Timer(PATIENCE, _leave_unless_saving).start()


def _leave_unless_saving() -> None:
    if not SAVING.is_set():
        leave()
