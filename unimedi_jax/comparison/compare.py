"""UniMedI beside the systems it is compared with, released encoders and published figures."""

import pathlib

import ml_collections

from unimedi_jax.comparison import released, runs, runs_page
from unimedi_jax.report import published

TASK = "comparison"
RELEASED = (
    "Files of config.encoders were not trained here: their rows are the probe on their frozen CLS, and their one "
    "number of X-rays says nothing of reports or CTs."
)


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains what is not trained yet, then writes `results.csv` and `index.html` into `workdir`."""
    planned = runs.planned(config, workdir)
    runs.check_sets(config)
    # First, as a file may be refused: a typing error must not wait for hours of training.
    encoders = released.planned(config, workdir, taken={one.name for one in planned})
    for encoder in encoders:
        released.measure(encoder)
    measured = [row for encoder in encoders for row in runs.measured(encoder.run, TASK)]
    rows = runs.train(planned, TASK, workdir, beside=measured)
    others, figures = published.others()
    beside = dict(tables_beside=[others], scalars_beside=figures)
    runs_page.publish(rows, workdir, config, title="Comparison", note=RELEASED if encoders else "", **beside)
