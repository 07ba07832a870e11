"""UniMedI beside the systems it is compared with, released encoders and published figures."""

import pathlib

import ml_collections

from data.errors import UserError
from unimedi_jax.comparison import released, runs, runs_page
from unimedi_jax.evaluation import results
from unimedi_jax.report import published

TASK = "comparison"
RELEASED = (
    "Those of config.encoders were not trained here: their rows are the probe of all test X-rays on their frozen "
    "features, and retrieval and zero-shot where they were released with a report tower; nothing is said of CTs."
)


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains what is not trained yet, then writes `results.csv` and `index.html` into `workdir`.

    Without presets it compares the released encoders alone.
    """
    if not (config.presets or config.encoders):
        raise UserError("config.presets and config.encoders are empty: name what to compare")
    trained = runs.planned(config, workdir) if config.presets else []
    runs.check_sets(config)
    # First, as a file may be refused: a typing error must not wait for hours of training.
    encoders = released.planned(config, workdir, taken={one.name for one in trained})
    shared = {"task": TASK, "data": config.data, "modality": "", "seed": config.seeds[0]}
    beside = [
        row
        for encoder in encoders
        for row in results.of(released.measure(encoder, config), encoder=encoder.name, **shared)
    ]
    rows = runs.train(trained, TASK, workdir, beside=beside) if trained else beside
    others, figures = published.others()
    beside = dict(tables_beside=[others], scalars_beside=figures)
    runs_page.publish(rows, workdir, config, title="Comparison", note=RELEASED if encoders else "", **beside)
