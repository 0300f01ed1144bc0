"""Python processes side by side, on devices that the CPU pretends to have."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def start(n_devices, *arguments, folder=ROOT):
    """Starts `python *arguments` in `folder`, with XLA's flags of tests/conftest.py."""
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "JAX_NUM_CPU_DEVICES": str(n_devices),
    }
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_address():
    """HOST:PORT at which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return f"localhost:{listener.getsockname()[1]}"
