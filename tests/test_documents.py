"""Documents: every command fits the configs of today, every link leads somewhere, README stays short."""

import itertools
import pathlib
import re
import runpy
import shlex
import shutil
import subprocess

import pytest
from absl import flags
from ml_collections import config_flags

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "data" / "README.md"])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # of ml_collections
DOCS_PYTHON = ROOT / ".venv-docs" / "bin" / "python"  # of make docs
PLACEHOLDERS = {"configs/<job>.py", "configs/build.py:<set>"}


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose_of(name: str) -> str:
    """Without code."""
    return re.sub(r"```.*?```|^ {4}[^\n]*$|`[^`\n]*`", "", text_of(name), flags=re.DOTALL | re.MULTILINE)


def commands(name: str) -> list[str]:
    """What is to be typed behind `main.py` or `unimedi`, to the end of the line or of the code."""
    joined = re.sub(r"\\\n\s*", "", text_of(name))
    return [
        found.split(" # ")[0].split(" | ")[0].strip()
        for found in re.findall(r"(?:main\.py|unimedi) (--config=[^\n`]+)", joined)
        if not any(placeholder in found for placeholder in PLACEHOLDERS)
    ]


def parse(command: str) -> None:
    """Parses it as main.py does; raises what absl and ml_collections raise."""
    arguments = shlex.split(command)
    job, colon, preset = arguments[0].removeprefix("--config=").partition(":")
    file = ROOT / "configs" / (job.removeprefix("configs/").removesuffix(".py") + ".py")
    arguments = [argument.replace("SEED", "7") for argument in arguments if argument != "--help"]
    line = ["main.py", f"--config={file}{colon}{preset}", *arguments[1:]]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=line)
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    values(line)
    assert values.config


@pytest.mark.parametrize("name", NAMES)
def test_commands_fit_the_configs(name):
    for command in commands(name):
        try:
            parse(command)
        except Exception as error:  # whatever a wrong setting raises
            pytest.fail(f"{name}: {command}: {str(error).strip().splitlines()[-1]}")


def test_commands_are_seen():
    assert len([command for name in NAMES for command in commands(name)]) > 60
    with pytest.raises(AttributeError, match="nothing"):
        parse("--config=configs/pretrain.py:demo --config.nothing=1")


def anchors(path: pathlib.Path) -> set[str]:
    """Of headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def links(name: str) -> list[str]:
    """Where a page's links lead, but for those to the web."""
    return [one for one in re.findall(r"\]\(([^)\s]+)\)", prose_of(name)) if not re.match(r"https?://|mailto:", one)]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    for target in links(name):
        file, _, anchor = target.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        assert path.exists(), f"{name}: {target}"
        assert not anchor or anchor in anchors(path), f"{name}: {target}"


PROSE = sorted({"README.md", "CONTRIBUTING.md", *(name for name in NAMES if "/" in name)} - {"docs/configuration.md"})
# What is said otherwise: X-rays, modality classification accuracy, slice hit rate, informative slices, resumes, needs
# your action, is skipped and logged, replaced by the next readable one, compared with an uninterrupted run.
FORBIDDEN = re.compile(
    r"\bfilms?\b|told apart|slice hits|telling slices|goes on\b|a person's turn|never gets in|stood in for|"
    r"behind its last|holds every round",
    re.IGNORECASE,
)


def cells(name: str) -> list[str]:
    rows = [line for line in text_of(name).splitlines() if line.startswith("|")]
    return [cell.strip() for row in rows for cell in re.split(r"(?<!\\)\|", row.strip().strip("|"))]


@pytest.mark.parametrize("name", PROSE)
def test_pages_are_short_and_their_tables_hold_no_prose(name):
    assert len(text_of(name).splitlines()) <= 250
    assert [cell for cell in cells(name) if len(cell) > 150] == []


@pytest.mark.parametrize("name", PROSE)
def test_pages_use_the_words_of_the_field(name):
    assert FORBIDDEN.findall(re.sub(r"\s+", " ", prose_of(name))) == []


@pytest.mark.parametrize("name", PROSE)
def test_a_blank_line_precedes_every_list(name):
    """Without it GitHub shows a list and the site a paragraph."""
    lines = re.sub(r"```.*?```", "", text_of(name), flags=re.DOTALL).splitlines()
    item = re.compile(r"(- |\d+\. )")
    for before, line in itertools.pairwise(lines):
        assert not item.match(line) or not before.strip() or before.startswith(" ") or item.match(before), line


def test_the_index_names_every_page():
    index = text_of("docs/README.md")
    missing = [page.name for page in (ROOT / "docs").glob("*.md") if f"({page.name})" not in index]
    assert missing in ([], ["README.md"])


def test_readme_is_short():
    text = text_of("README.md")
    assert len(text.splitlines()) <= 160
    assert len(text.split()) <= 1500


def test_the_figure_of_the_method_is_what_its_script_draws():
    scope: dict = {"__file__": str(ROOT / "docs" / "figures" / "method.py"), "__name__": "method"}
    exec(text_of("docs/figures/method.py"), scope)
    assert text_of("docs/method.svg") == scope["figure"]()


def site_builder() -> dict:
    return runpy.run_path(str(ROOT / "docs" / "build_site.py"))


def test_the_site_holds_every_page_and_what_they_link_to(tmp_path):
    site_builder()["copy_pages"](tmp_path)
    for name in NAMES:
        assert (tmp_path / name).is_file(), name
        for target in filter(None, (link.partition("#")[0] for link in links(name))):
            assert (tmp_path / name).parent.joinpath(target).is_file(), f"{name}: {target}"


def test_the_menu_of_the_site_is_the_index():
    start = "**Start**\n\n- [a.md](a.md): one\n- [../b/README.md](../b/README.md): two\n"
    index = f"# Index\n\n{start}\n**More**\n\n- [c_d.md](c_d.md): three\n"
    menu = site_builder()["navigation"](index)
    assert menu[2:] == [{"Start": [{"A": "docs/a.md"}, {"B": "b/README.md"}]}, {"More": [{"C d": "docs/c_d.md"}]}]


@pytest.mark.skipif(not DOCS_PYTHON.is_file(), reason="make docs has not been run")
def test_the_site_builds_and_a_broken_link_fails_it(tmp_path):
    clone = tmp_path / "clone"
    site_builder()["copy_pages"](clone)
    for name in ("build_site.py", "mkdocs.yml"):
        shutil.copy(ROOT / "docs" / name, clone / "docs" / name)
    command = [str(DOCS_PYTHON), "docs/build_site.py", "out"]
    built = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    page = (clone / "out" / "index.html").read_text(encoding="utf-8")
    assert "UniMedI" in page
    assert (
        re.findall(r"""<(?:script|img|iframe)[^>]+src="?http|<link[^>]+stylesheet[^>]+href="?http|unpkg""", page) == []
    )
    with (clone / "docs" / "running.md").open("a", encoding="utf-8") as page:
        page.write("\n[nowhere](nowhere.md) [no heading](method.md#none)\n")
    built = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
    assert built.returncode == 1
    assert "nowhere.md" in built.stderr
    assert "#none" in built.stderr
