"""UniMedI's objective: one batch to its losses. Read `Objective.forward` first, it is the method on one screen."""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
from jax import numpy as jnp

from unimedi_jax import losses, selection
from unimedi_jax.config import objectives as settings
from unimedi_jax.mean import Mean
from unimedi_jax.models import heads, vision
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.objectives import base, common
from unimedi_jax.typing import Array, Batch, Bool, Float, Int, Key, Metrics, PyTree, Step

CENTRES = {"icl": "centre_cls", "pcl": "centre_patch"}  # of each distillation, in the objective's state


class TeacherOutput(NamedTuple):
    """The teacher on one modality: targets, and what the student is to see. No gradient."""

    cls: Float[Array, "b d"] | None  # None without L_icl
    patches: Float[Array, "b m d"] | None  # at the positions where the patch loss looks; None without L_pcl
    keep: Int[Array, "b k"] | None  # tokens that the student sees; None: all of them
    layers: Int[Array, "b s"] | None  # depth layers whose slices join a CT


class StudentOutput(NamedTuple):
    """The student on the same samples, position for position."""

    cls: Float[Array, "b d"]
    patches: Float[Array, "b m d"]


class TeacherStats(NamedTuple):
    """The teacher over the samples of a batch and of one modality, as means that can still be merged."""

    logits: Mean  # (p,) what its centre follows
    targets: Mean  # (p,) the share of each prototype in them
    entropy: Mean  # of each target, in nats


TeacherOutputs = dict[str, TeacherOutput]  # by modality
StudentOutputs = dict[str, StudentOutput]
Stats = dict[str, dict[str, TeacherStats]]  # loss -> modality


class Objective(settings.UniMedI, base.Objective):
    """UniMedI (arXiv 2311.14851): L_vl, L_icl and L_pcl; docs/method.md says item by item what is the paper's word."""

    teacher = ("vision", "head_cls", "head_patch")  # the visual side; reports have none

    def teacher_parts(self, model: UniMedI) -> tuple[str, ...]:
        """None where nothing is distilled and neither tokens nor slices are chosen by attention."""
        used = self.distils or self.scores_tokens or self.scores_slices(model.slices)
        return self.teacher if used else ()

    def heads(self, model: UniMedI) -> dict[str, nn.Module]:
        """DINO's prototypes for CLS and for patches.

        Raises:
            ValueError: mask tokens are to be compared where there are none, or blocks do not divide an X-ray.
        """
        selection.check_blocks(model.vision.image_grid, self.mask_block)
        tokens = min(math.prod(model.vision.image_grid), math.prod(model.volume_grid))
        if self.mask_mode == "mask_token" and selection.num_kept(tokens, self.mask_ratio) == tokens:
            raise ValueError(f"mask_ratio={self.mask_ratio} hides none of {tokens} tokens, which mask_token compares")
        size = model.head_sizes
        rest = size.hidden, size.bottleneck, model.vision.dtype
        cls, patch = (heads.DinoHead(count, *rest) for count in (size.prototypes_cls, size.prototypes_patch))
        return {"cls": cls, "patch": patch}

    def state(self, model: UniMedI) -> PyTree:
        """The centres, one a modality; they stay equal unless `centre_by_modality`."""
        counts = {"centre_cls": model.head_sizes.prototypes_cls, "centre_patch": model.head_sizes.prototypes_patch}
        return {kind: {modality: jnp.zeros(count) for modality in ("xray", "ct")} for kind, count in counts.items()}

    def forward(self, student: UniMedI, teacher: UniMedI, batch: Batch, state: PyTree, step: Step) -> base.LossTerms:
        """L = w_vl L_vl + w_icl L_icl + w_pcl L_pcl over a mixed batch of X-rays and CTs."""
        targets = self.teacher_forward(teacher, batch, student.make_rng("draws"), step)
        outputs, reports = self.student_forward(student, batch, targets)
        cls = {modality: output.cls for modality, output in outputs.items()}
        distilled, stats = self.distillation_losses(student, teacher, outputs, targets, state, step)
        terms = {"vl": self.contrastive_loss(student, batch, cls, reports), **distilled}
        return base.LossTerms(terms, target_information(stats), self.update_centres(state, stats))

    def teacher_forward(self, teacher: UniMedI, batch: Batch, key: Key[Array, ""], step: Step) -> TeacherOutputs:
        """The teacher sees samples whole, scores their tokens and chooses; of a CT it chooses slices first."""
        keys = common.keys(key, "xray", "ct", "slices")  # no draw depends on the modalities at hand
        outputs = {}
        for modality in common.modalities(batch):
            tokens = batch[modality]["tokens"]
            layers = self.choose_layers(teacher, tokens, keys["slices"], step) if modality == "ct" else None
            whole = self.encode_whole(teacher, modality, tokens, layers)
            draw = selection.random_scores(keys[modality], jnp.zeros((len(tokens), length(teacher, modality))))
            scores = self.scores(whole.scores if self.scores_tokens else None, draw, step)
            keep = self.choose_tokens(teacher, modality, scores) if self.mask_ratio else None
            outputs[modality] = jax.lax.stop_gradient(TeacherOutput(*self.targets(teacher, whole, keep), keep, layers))
        return outputs

    def encode_whole(
        self, teacher: UniMedI, modality: str, tokens: Array, layers: Int[Array, "b s"] | None
    ) -> vision.Encoded | None:
        """The teacher on all tokens; None, and no pass, where neither the choice of tokens nor a target needs it."""
        if not self.scores_tokens and not any(self.computes(name, teacher) for name in CENTRES):
            return None
        return teacher.encode(embed(teacher, modality, tokens, layers), scores=self.scores_tokens)

    def targets(
        self, teacher: UniMedI, whole: vision.Encoded | None, keep: Int[Array, "b k"] | None
    ) -> tuple[Float[Array, "b d"] | None, Float[Array, "b m d"] | None]:
        """CLS, and the patches where the patch loss looks; None of what is not distilled."""
        cls = whole.cls if self.computes("icl", teacher) else None
        patches = self.compared(whole.patches, keep) if self.computes("pcl", teacher) else None
        return cls, patches

    def computes(self, name: str, network: UniMedI) -> bool:
        """Whether a distillation has weight; heads have parameters all the same, so all are computed to make them."""
        return bool(getattr(self, f"weight_{name}")) or network.is_initializing()

    def student_forward(
        self, student: UniMedI, batch: Batch, targets: TeacherOutputs
    ) -> tuple[StudentOutputs, Float[Array, "b w"]]:
        """The student on the tokens that the teacher keeps, and the vectors of the reports, modality after modality.

        The other tokens are dropped, or hidden behind the mask token.
        """
        outputs = {}
        for modality, target in targets.items():
            tokens = batch[modality]["tokens"]
            if self.mask_mode == "drop":
                embedded = embed(student, modality, tokens, target.layers)
                encoded = student.encode(pick(embedded, target.keep))
                outputs[modality] = StudentOutput(encoded.cls, encoded.patches)
            else:
                hidden = complement(target.keep, length(student, modality))
                encoded = student.encode(embed(student, modality, tokens, target.layers, hidden))
                outputs[modality] = StudentOutput(encoded.cls, self.compared(encoded.patches, target.keep))
        return outputs, common.encode_reports(student, batch).vector

    def contrastive_loss(
        self, student: UniMedI, batch: Batch, cls: dict[str, Float[Array, "_ d"]], reports: Float[Array, "b w"]
    ) -> dict[str, Float[Array, " _"]]:
        """L_vl over all samples of the batch, CTs' and X-rays' reports being negatives of each other."""
        z_image, z_text = student.project(cls, reports, True)
        chunk = self.contrastive_chunk
        same = losses.same_report(*common.reports(batch), chunk) if self.identical_reports else common.studies(batch)
        each = losses.contrastive(z_image, z_text, self.temperature, same, chunk).mean(axis=0)
        return common.by_modality(each, batch)

    def distillation_losses(
        self,
        student: UniMedI,
        teacher: UniMedI,
        outputs: StudentOutputs,
        targets: TeacherOutputs,
        state: PyTree,
        step: Step,
    ) -> tuple[base.Losses, Stats]:
        """L_icl on CLS and L_pcl on patches, and the teacher's logits and targets over the batch."""
        terms, stats = {}, {}
        for name, head, field in (("icl", "cls", "cls"), ("pcl", "patch", "patches")):
            if not self.computes(name, student):
                continue
            terms[name], stats[name] = {}, {}
            for modality, output in outputs.items():
                terms[name][modality], stats[name][modality] = distillation_loss(
                    student.head[head](getattr(output, field)),
                    teacher.head[head](getattr(targets[modality], field)),
                    state[CENTRES[name]][modality],
                    self.student_temperature,
                    self.temperatures(step)[name],
                )
        return terms, stats

    def update_centres(self, state: PyTree, stats: Stats) -> PyTree:
        """The centres after this batch, one a modality; those of a loss without weight stay as they are.

        They stay equal, each following the whole batch, unless `centre_by_modality`.
        """
        after = {}
        for name, kind in CENTRES.items():
            means = {modality: of_teacher.logits for modality, of_teacher in stats.get(name, {}).items()}
            if means and not self.centre_by_modality:
                means = dict.fromkeys(state[kind], sum(means.values(), start=Mean(0.0, 0.0)))
            after[kind] = state[kind] | {
                modality: losses.update_centre(state[kind][modality], mean.value[None], self.centre_momentum)
                for modality, mean in means.items()
            }
        return after

    def temperatures(self, step: Step) -> dict[str, Float[Array, ""]]:
        """The teacher's temperature for each distillation."""
        steps = self.temperature_warmup_steps
        ends = {"icl": self.teacher_temperature_cls, "pcl": self.teacher_temperature_patch}
        return {name: losses.teacher_temperature(pair, steps, step) for name, pair in ends.items()}

    def choose_layers(self, teacher: UniMedI, tokens: Array, key: Key[Array, ""], step: Step) -> Int[Array, "b s"]:
        """The depth layers that eq. 2 ranks first, for the teacher on the volume alone; or random ones."""
        layers, attention = teacher.volume_grid[0], None
        draw = selection.random_scores(key, jnp.zeros((len(tokens), layers)))
        if self.scores_slices(teacher.slices):
            volume = teacher.encode(teacher.embed_volume(tokens), scores=True)
            attention = selection.slice_scores(volume.scores, layers)
        return selection.topk_indices(self.scores(attention, draw, step), teacher.slices)

    def choose_tokens(self, model: UniMedI, modality: str, scores: Float[Array, "b n"]) -> Int[Array, "b k"]:
        """The tokens that the student sees, of [slices, volume] in a CT."""
        grid = common.grid(model, modality)
        slices = scores.shape[1] - math.prod(grid)  # tokens of the slices, before those of the volume
        if self.mask_scope == "sequence" or not slices:
            return selection.best_tokens(scores, self.mask_ratio, grid, self.mask_block)
        parts = [selection.best_tokens(x, self.mask_ratio, grid) for x in jnp.split(scores, [slices], axis=1)]
        return jnp.concatenate([parts[0], parts[1] + slices], axis=1)

    def scores(self, attention: Float[Array, "b n"] | None, draw: Float[Array, "b n"], step: Step) -> Array:
        """What is chosen by: attention, or a random draw where there is none, and before `random_until_step`."""
        if attention is None:
            return draw
        if not self.random_until_step:
            return attention
        return jnp.where(step < self.random_until_step, draw, attention)

    def compared(self, patches: Float[Array, "b n d"], keep: Int[Array, "b k"] | None) -> Float[Array, "b m d"]:
        """The patches that the patch loss looks at: the kept tokens', or with mask tokens all others' (iBOT)."""
        if self.mask_mode == "drop":
            return pick(patches, keep)
        hidden = complement(keep, patches.shape[1]).astype(jnp.float32)
        return pick(patches, selection.topk_indices(hidden, hidden.shape[1] - keep.shape[1]))


def embed(
    network: UniMedI, modality: str, tokens: Array, layers: Int[Array, "b s"] | None, hidden: vision.Hidden = None
) -> Float[Array, "b n d"]:
    """All tokens of an X-ray, or [slices, volume] of a CT, with their positions."""
    if modality == "xray":
        return network.embed_xray(tokens, hidden)
    return network.embed_ct(tokens, layers, hidden)


def length(model: UniMedI, modality: str) -> int:
    """Tokens of an X-ray, or of a CT's slices and volume."""
    return math.prod(common.grid(model, modality)) + (model.slice_tokens if modality == "ct" else 0)


def pick(tokens: Float[Array, "b n d"], index: Int[Array, "b m"] | None) -> Float[Array, "b m d"]:
    """The tokens at `index`; all of them, without a gather, where it is None."""
    return tokens if index is None else selection.gather_tokens(tokens, index)


def complement(keep: Int[Array, "b k"], length: int) -> Bool[Array, "b n"]:
    """True at the tokens of a sequence that are not in `keep`."""
    return jnp.ones((len(keep), length), bool).at[jnp.arange(len(keep))[:, None], keep].set(False)


def distillation_loss(
    student: Float[Array, "b *m p"],
    teacher: Float[Array, "b *m p"],
    centre: Float[Array, " p"],
    student_temperature: float,
    teacher_temperature: Float[Array, ""],
) -> tuple[Float[Array, " b"], TeacherStats]:
    """Self-distillation from prototype logits, of each sample; and the teacher's logits and targets, averaged."""
    loss = losses.self_distillation(student, teacher, centre, student_temperature, teacher_temperature)
    # Patches: mean within a sample first, so that a CT does not outweigh an X-ray by its length.
    loss = loss.reshape(len(loss), -1).mean(axis=1)
    return loss, teacher_stats(teacher, losses.assignments(teacher, centre, teacher_temperature))


def teacher_stats(logits: Float[Array, "b *m p"], targets: Float[Array, "b *m p"]) -> TeacherStats:
    """Means over the samples, of patches over those of a sample first."""
    return TeacherStats(_over_samples(logits), _over_samples(targets), Mean.of(losses.entropy(targets)))


def _over_samples(values: Float[Array, "b *m p"]) -> Mean:
    each = values.reshape(len(values), -1, values.shape[-1]).mean(axis=1)
    return Mean(each.sum(axis=0), jnp.float32(len(values)))


def target_information(stats: Stats) -> Metrics:
    """What a target carries about its sample, in nats, by loss and modality: near 0 the teacher has collapsed."""
    return {
        f"{modality}/{name}_information": Mean.of(losses.information(means.targets.value, means.entropy.value))
        for name, by_modality in stats.items()
        for modality, means in by_modality.items()
    }
