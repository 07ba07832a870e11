import jinja2
import pytest

from data import pages
from tests.pages import HOSTILE, Parsed, assert_loads_and_runs_nothing


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "some.html"
    path.write_text(
        '{% extends "base.html" %}{% from "picture.html" import picture %}'
        "{% block body %}<p title='{{ text }}'>{{ text }}</p>{{ picture(png, text) }}{% endblock %}"
    )
    return path


def test_every_value_is_escaped(template):
    page = pages.render(template, text=HOSTILE, png=b"\x00\xff")
    assert_loads_and_runs_nothing(page)
    parsed = Parsed(page)
    assert parsed.text == [HOSTILE]
    assert ("p", {"title": HOSTILE}) in parsed.tags
    assert ("img", {"alt": HOSTILE, "src": "data:image/png;base64,AP8="}) in parsed.tags


def test_a_value_that_is_missing_is_an_error(template):
    with pytest.raises(jinja2.UndefinedError, match="'text' is undefined"):
        pages.render(template, png=b"")


def test_write_leaves_one_whole_file(tmp_path):
    path = pages.write(tmp_path / "new" / "page.html", "a path \udcff and é")
    assert path.read_text(encoding="utf-8") == "a path ? and é"
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]
