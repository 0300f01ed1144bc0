"""The command of a study that draws one picture, and needs no run."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from experiments.runs import files


def command(description: str, name: str, draw: Callable[[Path], Path]) -> None:
    """Draws into the file that the flag `--output` names, and prints its path.

    It ends the program with a message if the file is no .png or cannot be written.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--output", type=files.expand, default=Path(name), help="a .png file")
    output = parser.parse_args().output
    if output.suffix != ".png":
        parser.error(f"--output={output}: it must be a .png file")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)  # fails before the work, not after
        print(draw(output))
    except OSError as error:
        sys.exit(f"error: {error}")
