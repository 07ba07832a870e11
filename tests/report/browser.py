"""Lays pages out in a headless Chromium and measures them there; nothing is downloaded, and no page runs a script."""

import html
import json
import pathlib
import re
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# The script stands in a page around the measured ones, which forbid scripts and are taken as they are.
SCRIPT = """
const light = value => { const x = value / 255; return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; };
const luminance = colour => {
  const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(light);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const contrast = (one, other) => {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};
const hasText = element => [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
const measured = frame => {
  const page = frame.contentDocument, style = element => frame.contentWindow.getComputedStyle(element);
  const paper = style(page.body).backgroundColor, width = page.documentElement.clientWidth;
  const elements = [...page.body.querySelectorAll("*")];
  const texts = elements.filter(hasText).map(each => [contrast(style(each).color, paper), each.outerHTML.slice(0, 80)]);
  return {
    width, scrollWidth: page.documentElement.scrollWidth, paper,
    scrolling: elements.filter(each => each.matches(".wide") && each.scrollWidth > each.clientWidth).length,
    faintest: texts.sort((a, b) => a[0] - b[0])[0],
    smallest: Math.min(...elements.filter(hasText).map(each => parseFloat(style(each).fontSize))),
    pictures: [...page.images].every(each => each.complete && each.naturalWidth > 0),
  };
};
window.onload = () => {
  const results = Object.fromEntries([...document.querySelectorAll("iframe")].map(each => [each.name, measured(each)]));
  document.getElementById("results").textContent = JSON.stringify(results);
};
"""


def measure(pages: Mapping[str, tuple[str, int]], folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Lays out pages, each of a width in CSS pixels, and returns by their names what SCRIPT measures of them."""
    frames = "".join(
        f'<iframe name="{name}" style="width:{width}px;height:900px;border:0" srcdoc="{html.escape(page)}"></iframe>'
        for name, (page, width) in pages.items()
    )
    outer = folder / "outer.html"
    outer.write_text(f'<!doctype html><script>{SCRIPT}</script><pre id="results"></pre>{frames}', encoding="utf-8")
    written = run("--virtual-time-budget=20000", "--dump-dom", outer.as_uri(), folder=folder)
    results = re.search(r'<pre id="results">(.+?)</pre>', written, re.DOTALL)
    assert results, written[:500]
    return json.loads(html.unescape(results[1]))


def run(*arguments: str, folder: pathlib.Path) -> str:
    """What a headless Chromium of its own profile prints."""
    common = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}",
    )
    command = [str(CHROMIUM), *common, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
