"""The page in a browser: on a telephone, a tablet and a desk, light and dark, and on paper."""

import pathlib

import numpy as np
import pytest

from tests.report import browser
from unimedi_jax.report import content, page

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="needs chromium")
DARK, PRINT = "@media screen and (prefers-color-scheme: dark)", "@media print"
A4_WIDTH = 718  # CSS pixels between the margins of Chromium's A4
LEGIBLE = 4.5  # contrast of text, WCAG 2.2, 1.4.3
WIDTHS = (400, 800, 1280)


def full_page() -> str:
    """A page with everything on it, with long names and numbers."""
    rng, long = np.random.default_rng(0), "a_very_long_name_without_a_space_" * 4
    image, lesion = rng.integers(0, 256, (64, 64), np.uint8), np.zeros((8, 32, 32), bool)
    lesion[3, 4:8, 4:8] = True
    report = "There is a nodule in the right upper lobe. No pleural effusion. " * 3
    keys = [f"test/{column}/{row}" for column in range(7) for row in range(3)]
    line = {"step": 2} | dict.fromkeys(keys, 0.123456)
    line |= {f"{key}/{end}": 0.2 for key in keys for end in ("low", "high", "positives", "negatives")}
    cells = [
        [content.Cell(f"test/{c}/{r}", "test/0/0", "untrained", chance=0.5, counts=f"test/{c}/{r}") for c in range(7)]
        for r in range(3)
    ]
    rows = [content.Row(f"pleural effusion {row}", cells[row]) for row in range(3)]
    table = content.Table("Everything", ("", *(f"Column number {c}" for c in range(7))), rows, "A note. " * 30)
    losses = [
        {"step": s, "time": 60.0 * s, "loss": 2.0 / s, "loss/vl": 1 / s, "xray/vl": 2 / s, "ct/vl": 3 / s, "lr": 1e-4}
        for s in (1, 2, 3)
    ]
    volume = rng.integers(-1000, 400, (8, 32, 32)).astype(np.int16)
    slices = [
        content.SliceExample(
            volume,
            rng.random(4),
            np.array([1, 2]),
            np.array([3, 5]),
            "nodule",
            report,
            lesion,
            reason=f"{rank} of 61: attention AUC 0.71",
        )
        for rank in ("best", "median", "worst")
    ]
    retrieved = [content.Retrieved(report, 0.9 - 0.1 * i, correct) for i, correct in enumerate((True, False, None))]
    return page.render(
        content.PageContent(
            name=f"run {long}",
            config={"inner": {"setting": long, long: 3}},
            contracts={"mine": {"labels": ["nodule", long], "splits": {"xray": {"train": 12, "test": 3}}}},
            metrics=[*losses, line],
            tables=[table],
            embedding=content.EmbeddingMap(
                rng.normal(size=(12, 2)), ["X-ray", "CT"] * 6, ["nodule", long, "normal"] * 4
            ),
            attention=[
                content.AttentionExample(
                    image, rng.random((4, 4)), "nodule", report, reason="best of 61: attention AUC 0.98"
                )
            ]
            * 3,
            slices=slices,
            retrieval=[
                content.RetrievalExample(
                    "X-ray, a set of mine", image, report, retrieved, "worst of 280: its report comes at place 271"
                )
            ]
            * 3,
            headline=["The network recognises findings: mean AUC (0.5 is chance) of 0.81 by prompts alone. " * 2] * 3,
            flags=[f"{long}: 9 pairs say little.", "CT, zero-shot AUC 0.49 is at or below chance (0.50)."],
            notes=[f"{long}: the prompt pair may be inverted."],
        ),
        show_reports=True,
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> dict[str, dict]:
    """What the browser measures of the page, by name; the rules for the dark and for paper hold in copies of it."""
    light = full_page()
    assert light.count(DARK) == light.count(PRINT) == 1
    dark, printed = light.replace(DARK, "@media (min-width: 0)"), light.replace(PRINT, "@media all")
    pages = {f"light-{width}": (light, width) for width in WIDTHS} | {
        f"dark-{width}": (dark, width) for width in WIDTHS
    }
    return browser.measure(pages | {"paper": (printed, A4_WIDTH)}, tmp_path_factory.mktemp("browser"))


NAMES = [*(f"{scheme}-{width}" for scheme in ("light", "dark") for width in WIDTHS), "paper"]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_wider_than_the_window(measured, name: str) -> None:
    of_page = measured[name]
    assert of_page["scrollWidth"] <= of_page["width"]
    assert of_page["pictures"], "all of them are shown"


def test_tables_scroll_on_a_telephone_and_not_on_paper(measured) -> None:
    assert measured["light-400"]["scrolling"] > 0
    assert measured["paper"]["scrolling"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_every_text_is_legible(measured, name: str) -> None:
    contrast, where = measured[name]["faintest"]
    assert contrast >= LEGIBLE, where
    assert measured[name]["smallest"] >= (8 if name == "paper" else 12), "CSS pixels"


def test_the_scheme_changes_the_paper(measured) -> None:
    assert measured["light-800"]["paper"] == measured["paper"]["paper"] == "rgb(255, 255, 255)"
    assert measured["dark-800"]["paper"] == "rgb(20, 23, 26)"


def test_it_prints(tmp_path: pathlib.Path) -> None:
    source, target = tmp_path / "page.html", tmp_path / "page.pdf"
    source.write_text(full_page(), encoding="utf-8")
    browser.run(f"--print-to-pdf={target}", "--no-pdf-header-footer", source.as_uri(), folder=tmp_path)
    assert target.read_bytes().startswith(b"%PDF")
