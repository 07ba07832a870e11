"""The picture in docs/search.md: the page with a CT of the phantom as its query.

python -m tests.search.screenshot CHECKPOINT RECORDS docs/search.jpg [NARROW.jpg]   (with Chromium)

The second picture is that of a telephone's width, for whoever changes the page to look at.
"""

import dataclasses
import itertools
import pathlib
import sys
import tempfile
import threading
from collections.abc import Iterator

import nibabel
import numpy as np

from tests import browser
from unimedi_jax.config.jobs import SearchConfig
from unimedi_jax.inference import embed
from unimedi_jax.input import records
from unimedi_jax.search import app, build, entries, server

WIDTH, HEIGHT, QUALITY, NARROW = 1280, 1500, 45, 400
EACH = 150  # X-rays and CTs of the training split that the index holds


def main(checkpoint: str, data_dir: str, out: str, narrow: str = "") -> None:
    """Builds an index in a temporary folder, asks for what looks like a test patient's CT, and writes the window."""
    model = embed.load(checkpoint, rows=16)
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place) / "index"
        phantom = records.open_set(data_dir, "phantom")
        parts = dataclasses.replace(
            entries.of_sets(model.pretrained, data_dir, ["phantom"]), total=2 * EACH, read=lambda _: first(phantom)
        )
        build.of_entries(folder, model, parts, picture_size=96, keep_reports=True, exact=10**6)
        record = phantom.source("ct", "test")[0]
        z, y, x = record["spacing_mm"].tolist()
        image = nibabel.Nifti1Image(record["volume"].transpose(2, 1, 0), np.diag([-x, -y, z, 1.0]))
        nibabel.save(image, pathlib.Path(place) / "ct.nii.gz")
        page = app.App(folder, model, SearchConfig(k=5, show_reports="yes"))
        with server.Server(page, 0) as running, browser.Browser() as chromium:
            threading.Thread(target=running.serve_forever, daemon=True).start()
            chromium.resize(WIDTH, HEIGHT)
            chromium.open(running.address)
            chromium.choose_files("input[type=file]", pathlib.Path(place) / "ct.nii.gz")
            chromium.run("document.querySelector('select[name=split]').value = 'train'")
            chromium.click("button")
            chromium.screenshot(pathlib.Path(out), format="jpeg", quality=QUALITY)
            if narrow:
                chromium.resize(NARROW, HEIGHT)
                chromium.screenshot(pathlib.Path(narrow), format="jpeg", quality=QUALITY)
            running.shutdown()


def first(phantom: records.RecordSet) -> Iterator[entries.Entry]:
    """EACH X-rays and CTs of the training split."""
    for kind in ("xray", "ct"):
        yield from itertools.islice(entries._records(phantom, kind, "train"), EACH)


if __name__ == "__main__":
    main(*sys.argv[1:])
