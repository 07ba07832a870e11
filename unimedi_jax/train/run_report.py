"""The end of a run: evaluation of held-out patients, the report page, the summary on the terminal."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unimedi_jax import patches, writers
from unimedi_jax.evaluation import evaluator
from unimedi_jax.inference import features
from unimedi_jax.metrics import auroc, retrieval
from unimedi_jax.report import content, figures, page, tables
from unimedi_jax.typing import PyTree

EXAMPLES = 6  # cases a modality on the page
NAMES = {"xray": "X-ray", "ct": "CT"}


def final(
    evaluations: evaluator.Evaluator,
    writer: writers.Writer,
    workdir: pathlib.Path,
    config: Mapping[str, Any],
    *,
    step: int,
    show: str,
    trained: PyTree,
    untrained: PyTree,
) -> pathlib.Path:
    """Evaluates the trained and the untrained network on the test patients, writes the page, then the numbers.

    The line of metrics.jsonl is the mark that all is done, so it comes last. `show` tells whether report texts appear:
    "yes", "no", or "auto" for the phantom alone. Returns the page's path.
    """
    scalars, embedded = evaluations(trained, "test", final=True, examples=EXAMPLES)
    before, _ = evaluations(untrained, "test", final=True)
    line = {f"test/{name}": value for name, value in scalars.items()}
    line |= {f"untrained/{name}": value for name, value in before.items()}
    path = workdir / "report" / "index.html"
    metrics = [*writers.read(workdir), {"step": step, **line}]
    shown = show == "yes" or (show == "auto" and evaluations.dataset.name == "phantom")
    page.write(path, _content(workdir.name, config, evaluations, metrics, embedded), show_reports=shown)
    writer.scalars(step, line)
    return path


def finished(workdir: pathlib.Path) -> bool:
    """Whether a run has been evaluated and has its page."""
    page_exists = (workdir / "report" / "index.html").exists()
    return page_exists and any(_is_final(line) for line in writers.read(workdir))


def headline(scalars: Mapping[str, float]) -> str:
    """The few numbers that say how a run is doing."""
    parts = []
    for modality, name in NAMES.items():
        scores = [
            f"{title} {scalars[key]:.3f}"
            for title, key in (
                ("zero-shot AUC", f"{modality}/zeroshot/macro"),
                ("R@5", f"{modality}/retrieval/i2t_r5"),
                ("slice hit rate", f"{modality}/slices/any/hit_rate"),
            )
            if key in scalars
        ]
        if scores:
            parts.append(f"{name} {', '.join(scores)}")
    return "; ".join(parts)


def summary(workdir: pathlib.Path, labels: Sequence[str]) -> str:
    """The result tables of a finished run as text, from its metrics.jsonl alone; `labels` get a row each."""
    metrics = [line for line in writers.read(workdir) if _is_final(line)]
    shown = tables.result_tables(metrics, labels)
    return "\n\n".join(tables.text(table, metrics) for table in shown)


def _below(value: float | None, limit: float) -> bool:
    return value is not None and value < limit


def _is_final(line: Mapping[str, Any]) -> bool:
    return any(key.startswith("test/") for key in line)


def _content(
    name: str,
    config: Mapping[str, Any],
    evaluations: evaluator.Evaluator,
    metrics: Sequence[Mapping[str, Any]],
    embedded: Mapping[str, features.EmbeddedSplit],
) -> content.PageContent:
    contract = evaluations.dataset.contract
    labels = contract["labels"]
    inverted = [
        f"{NAMES[modality]}, {label}: zero-shot AUC below 0.4, the prompt pair may be inverted."
        for modality in embedded
        for label in labels
        if _below(tables.latest(metrics, f"test/{modality}/zeroshot/{label}"), auroc.INVERTED_BELOW)
    ]
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
        self._example = example
        self._sampler = evaluations.samplers[modality]
        self._k = evaluations.slices
        self._modality = modality
        present = np.nan_to_num(example["labels"]) == 1
        self.findings = [label for label, has in zip(labels, present, strict=True) if has]
        report = example["report"]
        self.report = report.decode() if isinstance(report, bytes) else report

    def attention(self) -> content.AttentionExample:
        image, lesion = self._xray()
        cells = patches.grid((self._sampler.image_size,) * 2, self._sampler.image_patch)
        scores = np.asarray(self._example["scores"], np.float32).reshape(cells)
        return content.AttentionExample(image, scores, self.findings, self.report, lesion)

    def slices(self) -> content.SliceExample:
        volume, lesion = self._example["volume"], self._example.get("lesion_mask")
        scores = np.asarray(self._example["slice_scores"], np.float32)
        chosen = np.asarray(self._example["layers"])
        depth = len(volume) // len(scores)
        return content.SliceExample(
            volume,
            scores,
            chosen,
            chosen * depth + depth // 2,
            self.findings,
            self.report,
            None if lesion is None else (lesion > 0) & (lesion < 255),
        )

    def picture(self) -> np.ndarray:
        """What stands for the case where one picture must do: the X-ray, or the CT's best slice."""
        if self._modality == "xray":
            return self._xray()[0]
        example = self.slices()
        best = int(example.scores.argmax())
        depth = len(example.volume) // len(example.scores)
        return figures.lung_window(example.volume[best * depth + depth // 2])

    def _xray(self) -> tuple[np.ndarray, np.ndarray | None]:
        size = self._sampler.crop
        start = (self._example["image"].shape[0] - size) // 2
        window = np.s_[start : start + size, start : start + size]
        lesion = self._example.get("lesion_mask")
        lesion = None if lesion is None else ((lesion > 0) & (lesion < 255))[window]
        return self._example["image"][window], lesion


def _map(embedded: Mapping[str, features.EmbeddedSplit], labels: list[str]) -> content.EmbeddingMap | None:
    z, modality, finding = [], [], []
    names = [*labels, "normal" if labels else "", "several"]
    for key, part in embedded.items():
        kind = evaluator.single_finding(part.labels)
        rows = figures.tsne_rows(len(part.z), limit=400)
        z.append(part.z[rows])
        modality += [NAMES[key]] * len(rows)
        finding += [names[kind[row]] for row in rows]
    points = np.concatenate(z)
    if len(points) < 8:
        return None
    return content.EmbeddingMap(figures.tsne(points), modality, finding)


def _retrieved(modality: str, case: _Case, row: int, part: features.EmbeddedSplit) -> content.RetrievalExample:
    order, similarity = retrieval.nearest(part.z[row : row + 1], part.z_report, 3)
    neighbours = [
        content.Retrieved(part.reports[i], float(s), part.reports[i] == case.report)
        for i, s in zip(order[0], similarity[0], strict=True)
    ]
    return content.RetrievalExample(NAMES[modality], case.picture(), case.report, neighbours)
