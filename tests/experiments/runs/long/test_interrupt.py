import signal
import subprocess
import sys
import time

import pytest
from processes import ROOT

SCRIPT = """
import hashlib, signal
from experiments.runs.long import interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by a job in the background
interrupt.listen()
{first}
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", {n})  # native code that no signal interrupts
print("done", flush=True)
"""
SAVING = """
interrupt.PATIENCE = 0.2
interrupt.SAVING.set()
signal.signal(signal.SIGINT, lambda *_: print("saving"))
"""


def interrupted(first, n):
    """The process of a script that is stuck in native code, and the time of SIGINT."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(first=first, n=n)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)  # until the native code runs
    process.send_signal(signal.SIGINT)
    return process, time.monotonic()


def test_a_process_in_native_code_ends_long_before_that_does():
    """It takes about a second, and the native code minutes."""
    process, _ = interrupted("", 1 << 30)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (1, "interrupted\n")


@pytest.mark.thorough
def test_a_process_that_saves_is_not_ended():
    process, begun = interrupted(SAVING, 8_000_000)
    output, errors = process.communicate(timeout=100)
    assert time.monotonic() - begun > 0.4
    assert (process.returncode, output, errors) == (0, "saving\ndone\n", "")
