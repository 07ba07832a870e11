"""Reads a page back: its tags, its texts, and whether it loads or runs anything."""

import re
from html.parser import HTMLParser

HOSTILE = """<script>alert("1")</script> & 'two' </title></style>{{ 7 * 7 }}"""
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Parsed(HTMLParser):
    """Tags, attributes and texts of a page; fails where tags do not nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: list[tuple[str, str, str]] = []  # key, exact value, text shown
        self.text: list[str] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append(data.strip())
        attributes = self._open[-1][1] if self._open else {}
        if "data-key" in attributes:
            self.numbers.append((attributes["data-key"], attributes["data-value"], data))

    @property
    def shown(self) -> str:
        """All that a reader may come across: texts and the values of attributes."""
        return "\n".join([*self.text, *(value or "" for _, attributes in self.tags for value in attributes.values())])


def assert_loads_and_runs_nothing(page: str) -> None:
    """No script, no handler, no address but those inside the page, and a policy that forbids the rest."""
    parsed = Parsed(page)
    assert not {tag for tag, _ in parsed.tags} & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for _, attributes in parsed.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "action", "poster"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:image/png;base64,"))
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert any("default-src 'none'" in (attributes.get("content") or "") for _, attributes in parsed.tags)


def assert_same_page_but_for_texts(page: str, harmless: str) -> None:
    """Texts change what a page says and nothing of how it is built: same tags and attributes in the same order."""
    built, expected = ([(tag, sorted(attributes)) for tag, attributes in Parsed(one).tags] for one in (page, harmless))
    assert built == expected
