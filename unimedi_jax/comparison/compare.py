"""UniMedI beside the systems it is compared with, released encoders and published figures."""

import pathlib

import ml_collections

from data.errors import UserError
from unimedi_jax.comparison import released, runs
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
    # First, as a file may be refused: a typing error must not wait for hours of training.
    encoders = released.planned(config, workdir, taken={one.name for one in trained})
    measured = {encoder.name: released.measure(encoder, config) for encoder in encoders}
    if trained:
        runs.train(trained)
    rows = [row for one in trained for row in runs.measured(one, TASK)]
    shared = {"task": TASK, "data": config.data, "modality": "", "seed": config.seeds[0]}
    rows += [row for name, scalars in measured.items() for row in results.of(scalars, encoder=name, **shared)]
    others, figures = published.others()
    rows += runs.costs(trained, TASK)
    beside = dict(tables_beside=[others], scalars_beside=figures)
    runs.publish(rows, workdir, config, title="Comparison", note=RELEASED if encoders else "", **beside)
