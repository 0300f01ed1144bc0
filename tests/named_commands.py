"""Commands that README.md, docs/ and the docstrings name, as a user would copy them."""

import ast
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = ("configs", "experiments", "models", "samplers", "sde_lib")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = [path for folder in CODE for path in sorted((ROOT / folder).rglob("*.py"))]
COMMAND = re.compile(r"python3? -m (experiments[^`\n#]*|pytest[^`\n#]*)")
TEMPLATES = ("[:VARIANT]", "--mode=MODE", "{")  # of no one command
NAMES = {  # in place of names that stand for any
    "autoencoder.py": {"RUN": "runs/emoji-autoencoder", "FILE": "configs/emoji.py:latent"},
    "classifier.py": {"RUN": "runs/digits-classifier", "MODEL": "runs/digits"},
    "discriminator.py": {"RUN": "runs/digits-discriminator", "MODEL": "runs/digits-edm"},
    "score_model.py": {"RUN": "runs/digits"},
    "cifar10.py": {"FILE": "inception.npz"},
}


def strings(path):
    """The strings in a Python file, docstrings among them."""
    tree = ast.parse(path.read_text())
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def texts():
    """Pairs of a file and what users read of it: a page, or the strings of a module."""
    yield from ((path, path.read_text()) for path in PAGES)
    yield from ((path, "\n".join(strings(path))) for path in MODULES)


def commands(text):
    """The arguments of each command after `python -m`: the module, and its flags.

    `$main` stands for what main="..." says, as in a shell. Options in brackets are given too, and
    the first of several alternatives a|b.
    """
    text = re.sub(r"\s*\\\n\s*", " ", text)
    if main := re.search(r'(?m)^ +main="(.*)"$', text):
        text = text.replace(main[0], "").replace("$main", main[1])
    for found in COMMAND.findall(text):
        if any(template in found for template in TEMPLATES):
            continue
        line = re.sub(r"(?<==)([\w.]+)(\|\w+)+", r"\1", found.replace("[--", "--").replace("]", ""))
        yield tuple(shlex.split(line.strip().rstrip("'")))


def all_commands():
    """Each command once, in the order in which they are read."""
    found = {}
    for path, text in texts():
        text = re.sub(r"(?m)^--(?=.*RUN$)", "python -m experiments.main --", text)  # of model cards
        for name, value in NAMES.get(path.name, {}).items():
            text = re.sub(rf"={name}\b", f"={value}", text)
        found |= dict.fromkeys(commands(text))
    return [command for command in found if len(command) > 1]
