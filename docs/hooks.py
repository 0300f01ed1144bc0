"""What the site makes while it is built: contents, formulas, sources, config and tutorials."""

import html
import json
import re
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

from experiments.build.fields.migrate import RENAMED
from experiments.commands.usage.help import described_fields

sys.path.insert(0, str(Path(__file__).parent))
import imports

IMPORTS = "<!-- imports -->"
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL
)  # pymdownx.arithmatex writes them
SOURCE = '<details class="mkdocstrings-source"'
ROOT = Path(__file__).parents[1]
FILE = r"((?:sde_lib|samplers|models|configs|experiments)/[\w/]+\.py)(?::\w+)?"  # digits.py:vp too


def on_files(files: Files, config: Any) -> Files:
    """Adds the config's page, and fills in the lines of `nav` that have a *."""
    for path in sorted(_named(files)):
        files.append(File.generated(config, f"source/{path}.md", content=source_page(path)))
    files.append(File.generated(config, "config.md", content=config_page()))
    for notebook in sorted(Path(config.docs_dir, "tutorials").glob("*.ipynb")):
        page = notebook_page(notebook)
        files.append(File.generated(config, f"tutorials/{notebook.stem}.md", content=page))
    pages = sorted(file.src_uri for file in files.documentation_pages())
    named = set(re.findall(r"[\w/]+\.md", str(config.nav)))
    config.nav = _filled(config.nav, [page for page in pages if page not in named])
    return files


def _named(files: Files) -> set[str]:
    """The source files that pages name in code marks."""
    pages = (file.content_string for file in files.documentation_pages())
    return {path for page in pages for path in re.findall(f"`{FILE}`", page)}


def source_page(path: str) -> str:
    """The page of a source file, which the site's search leaves out."""
    head = f"---\nsearch: {{exclude: true}}\n---\n\n# {Path(path).name}\n\n`{path}`"
    return f"{head}\n\n~~~~ python\n{(ROOT / path).read_text()}~~~~\n"


def _filled(nav: Any, pages: list[str]) -> Any:
    """The nav, where a pattern is replaced by the pages that match it."""
    if isinstance(nav, dict):
        return {title: _filled(below, pages) for title, below in nav.items()}
    if isinstance(nav, list):
        filled = []
        for line in nav:
            whole = isinstance(line, str) and "*" in line
            filled += [p for p in pages if fnmatch(p, line)] if whole else [_filled(line, pages)]
        return filled
    return nav


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The architecture page's table of imports."""
    return markdown.replace(IMPORTS, imports.table()) if IMPORTS in markdown else markdown


def on_page_content(page_html: str, page: Page, files: Files, **_: Any) -> str:
    """Formulas as MathML, and links from names of source files to their pages.

    Browsers draw MathML without a script. A wrong formula ends the build.
    """

    def link(found: re.Match[str]) -> str:
        source = files.get_file_from_path(f"source/{found[1]}.md")
        if source is None or source is page.file:
            return found[0]
        return f'<a href="{get_relative_url(source.url, page.url)}">{found[0]}</a>'

    def mathml(found: re.Match[str]) -> str:
        if found[1] == "span":
            return convert(html.unescape(found[2]))
        block = convert(html.unescape(found[2]), display="block")
        return f'<div class="formula">{block}</div>'  # scrolls on a narrow screen

    page_html = page_html.replace(SOURCE, f"{SOURCE} data-search-exclude")
    return re.sub(f"<code>{FILE}</code>(?!</a>)", link, FORMULA.sub(mathml, page_html))


def notebook_page(path: Path) -> str:
    """The page of a notebook: its text and its code."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
    parts.insert(
        1, f"Download the [notebook]({path.name}), and run it in a clone of the repository."
    )
    return "\n\n".join(parts)


def config_page() -> str:
    """The page of all fields, by sections, and of the fields that were renamed."""
    lines, section = [INTRODUCTION], None
    for name, value, comment in described_fields():
        above, _, field = name.rpartition(".")
        if above != section:
            lines += [
                "",
                f"## {above or 'config'}",
                "",
                "| field | default | |",
                "| --- | --- | --- |",
            ]
            section = above
        lines.append(f"| `{field}` | `{_cell(value)}` | {_cell(comment)} |")
    lines += ["", "## Renamed fields", "", RENAMED_FIELDS, "", "| old | new |", "| --- | --- |"]
    lines += [f"| `{old}` | `{new}` |" for old, (new, _) in RENAMED.items()]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """The text as a cell of a table."""
    return html.escape(text, quote=False).replace("|", "\\|").replace("*", "\\*")


INTRODUCTION = """# Config

A section of the config holds the options of one component. The field that chooses the component is
`name`, `method`, `task` or `run`. An option of a component that is not chosen is refused. So are a
field that does not exist, a number out of its range and a value of a wrong type. `None` stands for
the component's own default. Set a field on the command line as `--config.section.field=value`."""
RENAMED_FIELDS = """A run's folder that an earlier version wrote still opens: its `config.json` is
migrated when it is read. On the command line, an old name is an error that gives the new one."""
