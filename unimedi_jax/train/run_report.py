"""The end of a run: evaluation of held-out patients, the report page, the summary on the terminal."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unimedi_jax import patches, writers
from unimedi_jax.evaluation import evaluator
from unimedi_jax.inference import features
from unimedi_jax.input import records
from unimedi_jax.metrics import auroc, label_keys, retrieval
from unimedi_jax.report import content, figures, page, tables
from unimedi_jax.train.job import TrainingJob
from unimedi_jax.typing import PyTree

EXAMPLES = 6  # cases a modality on the page
HEADLINE = {"zeroshot/macro": "zero-shot AUC", "retrieval/i2t_r5": "R@5", "slices/any/hit_rate": "slice hit rate"}


def final(
    evaluations: evaluator.Evaluator, writer: writers.Writer, job: TrainingJob, trained: PyTree, untrained: PyTree
) -> pathlib.Path:
    """Evaluates the trained and the untrained network on the test patients, writes the page, then the numbers.

    The line of metrics.jsonl marks the run as finished, so it comes last. Returns the page's path.
    """
    workdir, step, show = writer.workdir, job.config.steps, job.config.show_reports
    scalars, embedded = evaluations(trained, "test", final=True, examples=EXAMPLES)
    before, _ = evaluations(untrained, "test", final=True)
    # Without test patients the count alone marks the run as finished.
    line = {"test/cases": sum(len(part.z) for part in embedded.values())}
    line |= {f"test/{name}": value for name, value in scalars.items()}
    line |= {f"untrained/{name}": value for name, value in before.items()}
    path = workdir / "report" / "index.html"
    metrics = [*writers.read(workdir), {"step": step, **line}]
    shown = show == "yes" or (show == "auto" and evaluations.dataset.name == "phantom")
    page.write(path, _content(workdir.name, job.saved_config, evaluations, metrics, embedded), show_reports=shown)
    writer.scalars(step, line)
    return path


def finished(workdir: pathlib.Path) -> bool:
    """Whether a run has been evaluated and has its page."""
    return (workdir / "report" / "index.html").exists() and tables.final(writers.read(workdir)) is not None


def headline(scalars: Mapping[str, float]) -> str:
    """The few numbers that show how a run is doing."""
    parts = []
    for modality, name in tables.MODALITIES.items():
        numbers = {title: scalars.get(f"{modality}/{measure}") for measure, title in HEADLINE.items()}
        measured = [f"{title} {value:.3f}" for title, value in numbers.items() if value is not None]
        if measured:
            parts.append(f"{name} {', '.join(measured)}")
    return "; ".join(parts)


def summary(workdir: pathlib.Path, labels: Sequence[str]) -> str:
    """The result tables of a finished run as text, from its metrics.jsonl alone; `labels` get a row each."""
    metrics = [line for line in writers.read(workdir) if tables.final([line])]
    return "\n\n".join(tables.text(table, metrics) for table in tables.result_tables(metrics, labels))


def _content(
    name: str,
    config: Mapping[str, Any],
    evaluations: evaluator.Evaluator,
    metrics: Sequence[Mapping[str, Any]],
    embedded: Mapping[str, features.EmbeddedSplit],
) -> content.PageContent:
    contract = evaluations.dataset.contract
    labels, inverted = contract["labels"], []
    for modality, label in itertools.product(embedded, labels):
        auc = tables.latest(metrics, f"test/{modality}/zeroshot/{label_keys.of([label])[0]}")
        if auc is not None and auc < auroc.INVERTED_BELOW:
            problem = f"zero-shot AUC below {auroc.INVERTED_BELOW}, the prompt pair may be inverted"
            inverted.append(f"{tables.MODALITIES[modality]}, {label}: {problem}.")
    shown = {
        modality: [_Case(example, evaluations, modality, labels) for example in part.examples]
        for modality, part in embedded.items()
    }
    return content.PageContent(
        name=name,
        config=config,
        contract=contract,
        metrics=metrics,
        tables=tables.result_tables(metrics, labels),
        embedding=_map(embedded, labels),
        attention=[case.attention() for case in shown.get("xray", [])],
        slices=[case.slices() for case in shown.get("ct", [])],
        retrieval=[
            _retrieved(modality, case, row, embedded[modality])
            for modality, cases in shown.items()
            if evaluations.has_joint_space
            for row, case in list(enumerate(cases))[: EXAMPLES // 2]
        ],
        notes=inverted,
    )


class _Case:
    """One record of the page with the network's view of it."""

    def __init__(
        self, example: Mapping[str, Any], evaluations: evaluator.Evaluator, modality: str, labels: list[str]
    ) -> None:
        self._example, self._sampler, self._modality = example, evaluations.samplers[modality], modality
        present = np.nan_to_num(example["labels"]) == 1
        self.findings = [label for label, has in zip(labels, present, strict=True) if has]
        self.report = records.text(example["report"])

    def attention(self) -> content.AttentionExample:
        image, lesion = self._xray()
        cells = patches.grid((self._sampler.image_size,) * 2, self._sampler.image_patch)
        scores = np.asarray(self._example["scores"], np.float32).reshape(cells)
        return content.AttentionExample(image, scores, self.findings, self.report, lesion)

    def slices(self) -> content.SliceExample:
        volume, chosen = self._example["volume"], np.asarray(self._example["layers"])
        scores = np.asarray(self._example["slice_scores"], np.float32)
        depth = len(volume) // len(scores)
        middle = chosen * depth + depth // 2
        return content.SliceExample(volume, scores, chosen, middle, self.findings, self.report, self._lesion())

    def picture(self) -> np.ndarray:
        """The one picture that represents the case: the X-ray, or the slice of the CT with the highest score."""
        if self._modality == "xray":
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
        size = self._sampler.crop
        start = (self._example["image"].shape[0] - size) // 2
        window = np.s_[start : start + size, start : start + size]
        lesion = self._lesion()
        return self._example["image"][window], None if lesion is None else lesion[window]


def _map(embedded: Mapping[str, features.EmbeddedSplit], labels: list[str]) -> content.EmbeddingMap | None:
    if not embedded:
        return None
    z, modality, finding = [], [], []
    names = [*labels, "normal" if labels else "", "several"]
    for key, part in embedded.items():
        kind = evaluator.single_finding(part.labels)
        rows = figures.tsne_rows(len(part.z), limit=400)
        z.append(part.z[rows])
        modality += [tables.MODALITIES[key]] * len(rows)
        finding += [names[kind[row]] for row in rows]
    points = np.concatenate(z)
    return content.EmbeddingMap(figures.tsne(points), modality, finding) if len(points) >= 8 else None


def _retrieved(modality: str, case: _Case, row: int, part: features.EmbeddedSplit) -> content.RetrievalExample:
    order, similarity = retrieval.nearest(part.z[row : row + 1], part.z_report, 3)
    retrieved = [
        content.Retrieved(part.reports[i], float(s), part.reports[i] == case.report)
        for i, s in zip(order[0], similarity[0], strict=True)
    ]
    return content.RetrievalExample(tables.MODALITIES[modality], case.picture(), case.report, retrieved)
