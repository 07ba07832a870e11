"""The end of a run: evaluation of held-out patients, the report page, the summary on the terminal."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data.errors import UserError
from unimedi_jax import patches, writers
from unimedi_jax.evaluation import evaluator, examples
from unimedi_jax.inference import features
from unimedi_jax.input import records
from unimedi_jax.input.places import Place
from unimedi_jax.metrics import auroc, findings, label_keys, retrieval
from unimedi_jax.report import content, figures, headline, page, tables
from unimedi_jax.train import saved_config
from unimedi_jax.train.job import TrainingJob
from unimedi_jax.typing import PyTree

MAPPED = 400  # points of a place on the map
PROGRESS = {"zeroshot/macro10": "zero-shot AUC", "retrieval/i2t_r5": "R@5", "slices/any/hit_rate": "slice hit rate"}


def final(
    evaluations: evaluator.Evaluator, writer: writers.Writer, job: TrainingJob, trained: PyTree, untrained: PyTree
) -> pathlib.Path:
    """Evaluates the trained and the untrained network on the test patients, writes the page, then the numbers.

    The line of metrics.jsonl marks the run as finished, so it comes last. Returns the page's path.

    Raises:
        UserError: some records cannot be read. The page shows the others, and the run is not finished.
    """
    workdir, step, show = writer.workdir, job.config.steps, job.config.reports_shown
    scalars, embedded = evaluations(trained, "test", final=True)
    measured = [place for place in evaluations.places if place.name in embedded]
    shown = {place.name: evaluations.pictured(trained, place, "test", embedded[place.name]) for place in measured}
    before, embedded_before = evaluations(untrained, "test", final=True)
    # Without test patients the count alone marks the run as finished.
    line = {"test/cases": sum(len(part.z) for part in embedded.values())}
    line |= {f"test/{name}": value for name, value in scalars.items()}
    line |= {f"untrained/{name}": value for name, value in before.items()}
    path = workdir / "report" / "index.html"
    metrics = [*writers.read(workdir), {"step": step, **line}]
    show = all(name == "phantom" for name in job.contracts) if show is None else show
    # Trackers get the page too.
    shared = saved_config.shareable(job.saved_config)
    about = {"name": workdir.name, "config": shared, "contracts": job.contracts}
    page.write(path, _content(about, evaluations, metrics, embedded, shown), show_reports=show)
    if unread := evaluations.unread("test", embedded) or evaluations.unread("test", embedded_before):
        raise UserError(
            f"not evaluated: {unread}, whose records cannot be read (see above). {path} shows the rest. Training has "
            "ended and is saved: put the records right, and the same command evaluates again"
        )
    writer.scalars(step, line)
    return path


def finished(workdir: pathlib.Path) -> bool:
    """Whether a run has been evaluated and has its page."""
    return (workdir / "report" / "index.html").exists() and tables.final(writers.read(workdir)) is not None


def progress(scalars: Mapping[str, float], measured: Sequence[Place]) -> str:
    """The few numbers that show how a run is doing, of each of its places."""
    parts = []
    for place in measured:
        numbers = {title: scalars.get(f"{place.name}/{measure}") for measure, title in PROGRESS.items()}
        texts = [f"{title} {_text(value)}" for title, value in numbers.items() if value is not None]
        if texts:
            parts.append(f"{place.title} {', '.join(texts)}")
    return "; ".join(parts)


def _text(value: float) -> str:
    return "n/a" if np.isnan(value) else f"{value:.3f}"


def summary(workdir: pathlib.Path, measured: Sequence[Place]) -> str:
    """The headline and the result tables of a finished run as text, from its metrics.jsonl alone."""
    metrics = [line for line in writers.read(workdir) if tables.final([line])]
    sentences, flags = headline.of(metrics, measured)
    texts = [tables.text(table, metrics) for table in tables.result_tables(metrics, measured)]
    return "\n\n".join([*texts, "\n".join([*sentences, *(f"! {flag}" for flag in flags)])])


def _content(
    about: Mapping[str, Any],
    evaluations: evaluator.Evaluator,
    metrics: Sequence[Mapping[str, Any]],
    embedded: Mapping[str, features.EmbeddedSplit],
    shown: Mapping[str, examples.Examples],
) -> content.PageContent:
    measured = [place for place in evaluations.places if place.name in embedded]

    def cases(kind: str) -> list[_Case]:
        return [
            _Case(each, shown[place.name].records, evaluations, place)
            for place in measured
            for each in getattr(shown[place.name], kind)
        ]

    sentences, flags = headline.of(metrics, evaluations.places)
    return content.PageContent(
        **about,
        headline=sentences,
        flags=flags,
        metrics=metrics,
        tables=tables.result_tables(metrics, evaluations.places),
        embedding=_map(measured, embedded),
        attention=[case.attention() for case in cases("cases") if case.place.modality == "xray"],
        slices=[case.slices() for case in cases("cases") if case.place.modality == "ct"],
        retrieval=[_retrieved(case, embedded[case.place.name]) for case in cases("queries")],
        notes=_inverted(measured, metrics),
    )


def _inverted(measured: Sequence[Place], metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for every finding with cases enough whose zero-shot AUC suggests prompts the wrong way round."""
    notes = []
    for title, label, start in [(one.title, label, f"test/{one.name}") for one in measured for label in one.labels]:
        key = f"{start}/zeroshot/{label_keys.of([label])[0]}"
        auc, *counts = (tables.latest(metrics, name) for name in (key, f"{key}/positives", f"{key}/negatives"))
        if auc is not None and auc < auroc.INVERTED_BELOW and min(counts) >= auroc.FEWEST:
            problem = f"zero-shot AUC below {auroc.INVERTED_BELOW}, the prompt pair may be inverted"
            notes.append(f"{title}, {label}: {problem}.")
    return notes


class _Case:
    """One record of the page with the network's view of it."""

    def __init__(
        self,
        picked: examples.Picked,
        shown: Mapping[int, Mapping[str, Any]],
        evaluations: evaluator.Evaluator,
        place: Place,
    ) -> None:
        self.row, self.reason, self.place = picked.row, picked.reason, place
        self._example, self._sampler = shown[picked.row], evaluations.samplers[place.modality]
        self.findings = findings.described(self._example["labels"], place.labels)
        self.report = records.text(self._example["report"])

    def attention(self) -> content.AttentionExample:
        image, lesion = self._xray()
        cells = patches.grid((self._sampler.image_size,) * 2, self._sampler.image_patch)
        scores = np.asarray(self._example["scores"], np.float32).reshape(cells)
        about = (self.findings, self.report, lesion, self.place.title, self.reason)
        return content.AttentionExample(image, scores, *about)

    def slices(self) -> content.SliceExample:
        volume, chosen = self._example["volume"], np.asarray(self._example["layers"])
        scores = np.asarray(self._example["slice_scores"], np.float32)
        depth = len(volume) // len(scores)
        middle = chosen * depth + depth // 2
        about = (self.findings, self.report, self._lesion(), self.place.title, self.reason)
        return content.SliceExample(volume, scores, chosen, middle, *about)

    def picture(self) -> np.ndarray:
        """The one picture that represents the case: the X-ray, or the slice of the CT with the highest score."""
        if self.place.modality == "xray":
            return self._xray()[0]
        example = self.slices()
        best = int(example.scores.argmax())
        depth = len(example.volume) // len(example.scores)
        return figures.lung_window(example.volume[best * depth + depth // 2])

    def _lesion(self) -> np.ndarray | None:
        mask = self._example.get("lesion_mask")
        return None if mask is None else (mask > 0) & (mask < 255)

    def _xray(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The centre of the X-ray that the network sees, and its lesion."""
        side = len(self._example["image"])
        size = self._sampler.cropped(side)
        start = (side - size) // 2
        window = np.s_[start : start + size, start : start + size]
        lesion = self._lesion()
        return self._example["image"][window], None if lesion is None else lesion[window]


def _map(measured: Sequence[Place], embedded: Mapping[str, features.EmbeddedSplit]) -> content.EmbeddingMap | None:
    z, modality, finding = [], [], []
    for place in measured:
        part = embedded[place.name]
        rows = figures.tsne_rows(len(part.z), limit=min(MAPPED, figures.TSNE_POINTS // len(measured)))
        z.append(part.z[rows])
        modality += [place.title] * len(rows)
        finding += [findings.kind(part.labels[row], place.labels) for row in rows]
    if len(modality) < figures.FEWEST_POINTS:
        return None
    return content.EmbeddingMap(figures.tsne(np.concatenate(z)), modality, finding)


def _retrieved(case: _Case, part: features.EmbeddedSplit) -> content.RetrievalExample:
    order, similarity = retrieval.nearest(part.z[case.row : case.row + 1], part.z_report, 3)
    retrieved = [
        content.Retrieved(part.reports[i], float(s), _correct(part, case.row, i))
        for i, s in zip(order[0], similarity[0], strict=True)
    ]
    return content.RetrievalExample(case.place.title, case.picture(), case.report, retrieved, case.reason)


def _correct(part: features.EmbeddedSplit, row: int, other: int) -> bool | None:
    """Whether a case's report is right for another: the same words or findings; None where the labels leave it open."""
    if part.reports[other] == part.reports[row]:
        return True
    return findings.same(part.labels[row], part.labels[other])
