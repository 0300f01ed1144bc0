"""Packages of the wheel: the folders of the repository, inside score_sde_jax.

In the repository, `sde_lib`, `models` and the others are top-level folders. In site-packages such
names would hide a user's own `models` or `configs`, or be hidden by them. So a wheel holds them as
score_sde_jax.sde_lib and so on, and their imports are changed while it is built. An editable
installation has the folders as they are. setup.cfg has everything else.
"""

import re
import sys
from pathlib import Path
from typing import Any

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

NAME = "score_sde_jax"
FOLDERS = ("configs", "experiments", "models", "samplers", "sde_lib")
ANY = "|".join(FOLDERS)
CHANGES = (  # patterns and what takes their place, in lines of Python
    (rf"^( *)from ({ANY})\b", rf"\1from {NAME}.\2"),
    (rf"^( *)import ({ANY})( as \w+)?$", rf"\1from {NAME} import \2\3"),
    (r"(?<=[\"'])(experiments|configs)\.(?=[a-z_{])", rf"{NAME}.\1."),  # names of modules
    (r"-m experiments\b", rf"-m {NAME}.experiments"),
    (r'getLogger\("experiments"\)', f'getLogger("{NAME}.experiments")'),
)


def inside(source: str) -> str:
    """The source of a module with the imports that it has inside score_sde_jax."""
    for pattern, change in CHANGES:
        source = re.sub(pattern, change, source, flags=re.MULTILINE)
    return source


class Build(build_py):
    """Changes the imports of the modules that go into a wheel."""

    def build_module(self, module: Any, module_file: Any, package: Any) -> Any:
        built = super().build_module(module, module_file, package)
        if not self.editable_mode:
            path = Path(built[0])
            path.write_text(inside(path.read_text("utf-8")), "utf-8")
        return built


if __name__ == "__main__":
    packages = find_namespace_packages(include=[f"{name}*" for name in FOLDERS])
    editable = "editable_wheel" in sys.argv
    setup(
        cmdclass={"build_py": Build},
        packages=[NAME, *(packages if editable else [f"{NAME}.{name}" for name in packages])],
        package_dir={} if editable else {f"{NAME}.{name}": name for name in FOLDERS},
        package_data={NAME: ["py.typed"]},
    )
