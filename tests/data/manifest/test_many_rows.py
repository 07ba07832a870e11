"""A long manifest: what its rows keep in memory, and that a user sees it listed."""

import logging
import tracemalloc

import pytest

from data import progress
from data.errors import UserError
from data.manifest import source
from data.readers import table
from data.reports import text

ROWS = 2000
# Of a row, its report aside: a million rows with reports of 750 letters stay below 2 GB. Python 3.13 needs 1,130.
MOST_BYTES = 1200


@pytest.fixture
def manifest(tmp_path):
    report = "No pleural effusion, heart of normal size. " * 20
    lines = ["path,modality,report,patient,label:edema,label:mass"]
    for number in range(ROWS):
        (tmp_path / f"{number}.png").touch()
        lines.append(f'{number}.png,xray,"{number} {report}",patient{number // 3},1,')
    path = tmp_path / "m.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_row_keeps_its_report_and_little_more(manifest):
    source.read(manifest)  # what is loaded once
    tracemalloc.start()
    try:
        listed = source.read(manifest)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(listed.rows) == ROWS
    reports = sum(len(row.info.report) for row in listed.rows)
    assert (kept - reports) / ROWS < MOST_BYTES
    # While it is read the file is in memory twice, and behind that the rows.
    assert peak < max(kept, 2 * manifest.stat().st_size) + ROWS * MOST_BYTES


def test_listing_shows_its_progress(manifest, caplog, monkeypatch):
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0)
    with caplog.at_level(logging.INFO, logger="data.progress"):
        source.read(manifest)
    assert f"{ROWS} of {ROWS} rows listed" in caplog.text


def test_rows_are_read_anew_and_faults_are_told_before_any(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text('sep=;\npath;report\na;"two\r\nlines"\n;;\n\nb;c\n', newline="")
    header, rows = table.read_spreadsheet(path)
    assert header == ["path", "report"]
    assert len(rows) == 2
    assert list(rows) == list(rows) == [["a", "two\r\nlines"], ["b", "c"]]
    path.write_text('path,report\na,b\nc,"d\n')
    with pytest.raises(UserError, match="line 3"):
        table.read_spreadsheet(path)


@pytest.mark.parametrize("letter", ["\u200b", "\ufeff", "\x07", "\ue000", "\u00ad", "é", "ж", "\u00a0", "\u2028"])
def test_text_is_cleaned_with_and_without_the_shortcut(letter):
    import unicodedata

    raw = f"Heart{letter} size  normal."
    whole = unicodedata.normalize("NFC", " ".join(raw.split()))
    slow = " ".join("".join(c for c in whole if unicodedata.category(c) not in ("Cc", "Cf", "Co", "Cs")).split())
    assert text.clean(raw) == slow
