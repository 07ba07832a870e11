"""What a probe leaves: its rows, the probabilities of the test cases, and a head with its thresholds."""

import dataclasses
import functools

import numpy as np

from unimedi_jax.config.jobs import ProbeConfig
from unimedi_jax.evaluation import downstream, heads, results, trials
from unimedi_jax.evaluation.downstream import Part
from unimedi_jax.evaluation.trials import Trial
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input.records import RecordSet
from unimedi_jax.metrics import classification, pooling, thresholds
from unimedi_jax.typing import Float

TASKS = {"linear": "linear probe", "full": "full fine-tuning"}
Table = Float[np.ndarray, "n c"]  # n cases, c labels or classes


def task_name(config: ProbeConfig) -> str:
    """The task of the results by a way of tuning and a protocol; of a changed recipe under its own name."""
    part, protocol = trials.in_part(config.tune, config.trainable), config.protocol
    changed = protocol != "ours" and trials.changed(config, protocol)  # its recipe has its name
    return TASKS[config.tune] + part + trials.of_protocol(protocol, changed=changed)


@dataclasses.dataclass(frozen=True)
class ProbeOutputs:
    """Fills the parts of the probes of one modality with rows and, where they are wanted, heads and cases."""

    trained: Pretrained
    dataset: RecordSet
    modality: str
    config: ProbeConfig
    labels: Table  # of the test cases
    one_of: bool

    @property
    def names(self) -> list[str]:
        """Of the labels."""
        return self.dataset.contract["labels"]

    @functools.cached_property
    def studies(self) -> list[tuple[str, str]]:
        """Of the test cases, where the set names studies."""
        return downstream.studies_of(self.dataset, self.modality)

    @functools.cached_property
    def patients(self) -> list[str]:
        """Of the test cases."""
        return downstream.patients_of(self.dataset, self.modality)

    @functools.cached_property
    def ids(self) -> list[str]:
        """Of the test cases."""
        return downstream.ids(self.dataset, self.modality)

    def measured(self, part: Part, trial: Trial, probabilities: Table) -> None:
        """Adds the rows, and where they are wanted probability and label of every test case.

        Of studies with several pictures also rows by study: the mean of their probabilities.
        """
        settings = {"one_of": self.one_of, "resamples": self.config.resamples}
        scalars = classification.measure(probabilities, self.labels, self.names, **settings, patients=self.patients)
        slices = self.trained.use_slices(self.config.ct_slices) if self.modality == "ct" else None
        shared = dict(task=task_name(self.config), modality=self.modality, **trial._asdict())
        part.rows += results.of(scalars, data=self.dataset.name, cases=len(self.labels), ct_slices=slices, **shared)
        group, first = pooling.groups(self.studies)
        if len(first) < len(group):
            pooled = pooling.mean(probabilities, group), pooling.present(self.labels, group)
            of_studies = [self.patients[row] for row in first]
            scalars = classification.measure(*pooled, self.names, **settings, patients=of_studies)
            of_study = shared | {"task": shared["task"] + trials.BY_STUDY}
            part.rows += results.of(scalars, data=self.dataset.name, cases=len(first), ct_slices=slices, **of_study)
        if not part.detailed:
            return
        columns = {
            f"{kind}:{name}": column
            for kind, table in (("probability", probabilities), ("label", self.labels))
            for name, column in zip(self.names, table.T, strict=True)
        }
        part.add(self.ids, columns, **shared)

    def saves_head(self, part: Part, trial: Trial) -> bool:
        """Whether the head of this trial is the one that is saved."""
        return part.detailed and trial == trials.main(self.config)

    def head(self, part: Part, trial: Trial, on_val: tuple[Table, Table] | None, arrays: dict[str, np.ndarray]) -> None:
        """Adds a head with thresholds from the probabilities and labels of the validation cases, if there are any."""
        probabilities, labels = on_val or (np.zeros((0, len(self.names))),) * 2
        chosen = [thresholds.youden(*columns) for columns in zip(probabilities.T, labels.T, strict=True)]
        facts = dict(
            names=self.names,
            one_of=self.one_of,
            ct_slices=self.trained.use_slices(self.config.ct_slices),
            thresholds={name: one.facts() for name, one in zip(self.names, chosen, strict=True)},
        )
        made = heads.make("probe", self.config.tune, self.trained, self.dataset, self.modality, trial, **facts)
        part.heads.append(dataclasses.replace(made, arrays=arrays))
