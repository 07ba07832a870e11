"""Builds the documentation as a site: python docs/build_site.py OUT (make docs, requirements-docs.txt).

The pages are first copied in the shape of the repository, so that a link works on the site as it does on GitHub. A link
or an anchor that leads nowhere, or a page that the index does not name, fails the build.
"""

import logging
import pathlib
import re
import shutil
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Pages, and files that pages link to.
PUBLISHED = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "data/README.md",
    "data/reasons.py",
    "docs",
)
TOOLS = shutil.ignore_patterns("*.py", "*.yml", "__pycache__")


def copy_pages(target: pathlib.Path) -> None:
    """Copies what the site shows into the folder `target`."""
    for name in PUBLISHED:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=TOOLS)
        else:
            shutil.copy(ROOT / name, target / name)


def navigation(index: str) -> list[str | dict]:
    """The menu: the sections of docs/README.md and the pages in each, in the order of that page.

    Args:
        index: the text of docs/README.md: sections as **names**, pages as `- [name](path): purpose`.
    """
    menu: list[str | dict] = [{"Overview": "README.md"}, {"Index": "docs/README.md"}]
    for title, body in re.findall(r"^\*\*(.+?)\*\*$(.*?)(?=^\*\*|\Z)", index, re.MULTILINE | re.DOTALL):
        paths = re.findall(r"^- \[[^\]]*\]\(([^)]+)\)", body, re.MULTILINE)
        menu.append({title: [{page_title(path): ("docs/" + path).replace("docs/../", "")} for path in paths]})
    return menu


def page_title(path: str) -> str:
    """The name of a page in the menu: `zero_shot.md` is "Zero shot", `../data/README.md` is "Data"."""
    file = pathlib.PurePosixPath(path)
    stem = file.parent.name if file.name == "README.md" else file.stem
    return stem.replace("_", " ").capitalize()


def build(out: pathlib.Path) -> None:
    """Writes the site into the folder `out`.

    Raises:
        mkdocs.exceptions.Abort: mkdocs warned of something, such as a broken link, and has printed it.
    """
    from mkdocs.commands import build as mkdocs
    from mkdocs.config import load_config

    with tempfile.TemporaryDirectory() as folder:
        copy_pages(pathlib.Path(folder))
        menu = navigation((ROOT / "docs" / "README.md").read_text(encoding="utf-8"))
        places = {"docs_dir": folder, "site_dir": str(out.resolve()), "nav": menu}
        mkdocs.build(load_config(str(ROOT / "docs" / "mkdocs.yml"), strict=True, **places))


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    build(pathlib.Path(sys.argv[1]))
