"""The figures of docs/scaling.md follow from those of docs/performance.md by the rule that stands below its table."""

import pathlib

import pytest

DOCS = pathlib.Path(__file__).parents[2] / "docs"
FILM, CT = 64 * 2**10, 2**20  # bytes of a record
FILMS_A_SECOND, CTS_A_SECOND = 26, 2.8  # of one core
RATES = (742, 2498, 9294)  # samples a second
STEP, FILMS_A_STEP, EPOCHS = 128, 96, 50


def table() -> list[list[float]]:
    rows = []
    for line in (DOCS / "scaling.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if len(cells) == 7 and cells[1][0].isdigit():
            films, cts = (int(part.replace(",", "")) for part in cells[0].split(", "))
            rows.append([films, cts, *(float(cell.replace(",", "")) for cell in cells[1:])])
    return rows


def test_the_table_is_what_the_measured_figures_give():
    rows = table()
    assert {films for films, *_ in rows} == {1_000, 10_000, 200_000}
    assert {cts for _, cts, *_ in rows} == {1_000, 50_000}
    for films, cts, gigabytes, core_hours, steps, *hours in rows:
        assert gigabytes == pytest.approx((films * FILM + cts * CT) / 1e9, abs=0.051)
        assert core_hours == pytest.approx((films / FILMS_A_SECOND + cts / CTS_A_SECOND) / 3600, abs=0.051)
        assert steps == pytest.approx(EPOCHS * films / FILMS_A_STEP, abs=0.51)
        assert hours == pytest.approx(
            [EPOCHS * films / FILMS_A_STEP * STEP / rate / 3600 for rate in RATES], abs=0.0051
        )


def test_the_figures_stand_where_they_were_measured():
    text = "".join((DOCS / f"{page}.md").read_text(encoding="utf-8") for page in ("performance", "compiling"))
    assert all(figure in text for figure in ("742/s", "| 2,498 |", "| 9,294 |", "; 26/s", "; 2.8/s"))
