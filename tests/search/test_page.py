"""The page in a real browser: a film, a CT and a sentence, on narrow and wide windows, with nothing from elsewhere."""

import json

import pytest

from data import pages
from tests import browser
from tests.pages import assert_loads_and_runs_nothing, assert_same_page_but_for_texts
from tests.search.test_server import film, running, scan, temporary  # noqa: F401
from unimedi_jax.search import page, query, view
from unimedi_jax.search.page import Asked
from unimedi_jax.search.ranking import Filters

WIDTHS = (400, 800, 1280)


@pytest.fixture(scope="module")
def chromium():
    if browser.PROGRAM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with browser.Browser() as one:
        yield one


@pytest.fixture
def files(film, scan, tmp_path):  # noqa: F811
    (tmp_path / "film.png").write_bytes(film)
    (tmp_path / "ct.nii.gz").write_bytes(scan)
    return {"xray": tmp_path / "film.png", "ct": tmp_path / "ct.nii.gz"}


def first_picture(chromium) -> str:
    return chromium.run("document.querySelector('#pictures .id').textContent")


def check_layout(chromium, cards: int) -> None:
    for width in WIDTHS:
        chromium.resize(width)
        assert chromium.overflow() <= 0, width
        cells = "[...document.querySelectorAll('#pictures .card')].map(e => e.getBoundingClientRect())"
        boxes = json.loads(chromium.run(f"JSON.stringify({cells})"))
        assert len(boxes) == cards
        assert all(box["left"] >= 0 and box["right"] <= width and box["width"] >= 120 for box in boxes)
        columns = len({round(box["left"]) for box in boxes})
        assert columns == (2 if width == 400 else min(cards, 4)), width
    loaded = chromium.run("[...document.images].every(e => e.complete && e.naturalWidth > 0)")
    assert loaded
    styled = chromium.run("getComputedStyle(document.querySelector('form')).display")
    assert styled == "grid", "the styles pass the page's own policy"


def test_a_film_a_ct_and_a_sentence(chromium, running, files, index):  # noqa: F811
    chromium.resize(1280)
    chromium.open(running.address)
    for width in WIDTHS:
        chromium.resize(width)
        assert chromium.overflow() <= 0
    for modality, path in files.items():
        chromium.choose_files("input[type=file]", path)
        chromium.click("button")
        row = index.columns["modality"].tolist().index(modality)
        assert first_picture(chromium) == index.columns["id"][row]
        assert chromium.run("document.querySelector('.asked img').naturalWidth") == page.QUERY_SIZE
        check_layout(chromium, cards=4)
    chromium.click("#pictures .card a[href*='modality=xray']")  # from a CT to X-rays that look alike
    assert first_picture(chromium).startswith("phantom-xray")
    chromium.run("document.querySelector('textarea').value = 'There is a nodule in the <b>left</b> lung.'")
    chromium.run("document.querySelector('select[name=modality]').value = 'ct'")
    chromium.click("button")
    assert first_picture(chromium).startswith("phantom-ct")
    assert chromium.run("document.querySelector('#query .report').textContent").startswith(
        "There is a nodule in the <b>"
    )
    assert chromium.run("document.querySelectorAll('#reports .report').length") == 4
    check_layout(chromium, cards=4)
    assert all(one.startswith((running.address, "data:")) for one in chromium.requests if "favicon" not in one)
    assert [one for one in chromium.problems if "favicon" not in one] == []


def test_what_cannot_be_answered_is_said_above_the_form(chromium, running, tmp_path):  # noqa: F811
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    chromium.open(running.address)
    chromium.choose_files("input[type=file]", tmp_path / "broken.png")
    chromium.click("button")
    assert "cannot be answered" in chromium.run("document.querySelector('[role=alert]').textContent")
    assert chromium.run("document.querySelector('form') !== null")
    chromium.resize(400)
    assert chromium.overflow() <= 0


def test_the_written_page_opens_offline_and_runs_nothing(index, chromium, tmp_path):
    answer = query.answer(index, query.of_case(index, 0), Filters(modality="ct"), k=3, exact=10**6)
    shown = view.Shown.of(index, answer, show_reports=True)
    text = page.static(index, shown, Asked(Filters(modality="ct"), "words", "xray", row=0))
    assert_loads_and_runs_nothing(text)
    hostile = view.Shown(
        {
            kind: [(hit, facts | {"id": "<script>x</script>"}) for hit, facts in hits]
            for kind, hits in shown.hits.items()
        }
    )
    again = page.static(index, hostile, Asked(Filters(modality="ct"), "<script>", "xray", row=0))
    assert_same_page_but_for_texts(again, text)
    chromium.requests.clear()
    path = pages.write(tmp_path / "answer.html", text)
    chromium.open(path.as_uri())
    assert chromium.run("document.querySelectorAll('#pictures img').length") == 3
    assert chromium.requests[1:] == [one for one in chromium.requests[1:] if one.startswith("data:")]
