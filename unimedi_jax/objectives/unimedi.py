"""UniMedI's objective: one batch to its losses. Read `Objective.forward` first, it is the method on one screen."""

import dataclasses
import math
from typing import NamedTuple

import flax.linen as nn
import jax
from jax import numpy as jnp

from unimedi_jax import losses, selection
from unimedi_jax.config import objectives as settings
from unimedi_jax.mean import Mean
from unimedi_jax.models import heads, vision
from unimedi_jax.models.scores import SliceBaseline
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.objectives import alignment, base, common, crops, distillation, sequences, token_runs
from unimedi_jax.objectives.distillation import CENTRES
from unimedi_jax.typing import Array, Batch, Float, Int, Key, Num, PyTree, Scalar, Step


class TeacherOutput(NamedTuple):
    """The teacher on one modality: targets, and what the student is to see. No gradient."""

    cls: Float[Array, "b d"] | None  # None without L_icl
    patches: Float[Array, "b m d"] | None  # at the positions where the patch loss looks; None without L_pcl
    keep: Int[Array, "b k"] | None  # tokens that the student sees; None: all of them
    layers: Int[Array, "b s"] | None  # depth layers whose slices join a CT
    slice_scores: Float[Array, "b layers"] | None  # eq. 2 of these CTs, which a baseline follows
    view: Num[Array, "b n v"] | None = None  # in place of the sample; the fields before `layers` lie on its tokens


class StudentOutput(NamedTuple):
    """The student on the same samples, position for position."""

    cls: Float[Array, "b d"]
    patches: Float[Array, "b m d"]
    regions: Float[Array, "b n e"] | None = None  # all patches in the joint space, where sentences look for theirs


TeacherOutputs = dict[str, TeacherOutput]  # by modality
StudentOutputs = dict[str, StudentOutput]


class Objective(settings.UniMedI, base.Objective):
    """UniMedI (arXiv 2311.14851): L_vl, L_icl and L_pcl; docs/method.md says item by item what is the paper's word."""

    teacher = ("vision", "head_cls", "head_patch")  # the visual side; reports have none

    @property
    def texts(self) -> tuple[str, ...]:
        """The report or half of it, with `report_halves` the other half, with `negation` what says the opposite."""
        return ("text", *("other",) * self.report_halves, *("negated",) * self.negation)

    def teacher_parts(self, model: UniMedI) -> tuple[str, ...]:
        """None where nothing is distilled and neither tokens nor slices are chosen by attention."""
        used = self.distils or self.scores_tokens or self.scores_slices(model.slices)
        return self.teacher if used else ()

    def heads(self, model: UniMedI) -> dict[str, nn.Module]:
        """DINO's prototypes for CLS and for patches; for L_local maps of patches and sentences to the joint space.

        Raises:
            ValueError: mask tokens are to be compared where there are none, or blocks do not divide an X-ray.
        """
        selection.check_blocks(model.vision.image_grid, self.mask_block)
        tokens = min(math.prod(model.vision.image_grid), math.prod(model.volume_grid))
        least = self.stages()[0].mask_ratio
        if self.mask_mode == "mask_token" and selection.num_kept(tokens, least) == tokens:
            raise ValueError(f"mask_ratio={least} hides none of {tokens} tokens, which mask_token compares")
        size = model.head_sizes
        rest = size.hidden, size.bottleneck, model.vision.dtype
        counts = size.prototypes_cls, size.prototypes_patch
        cls, patch = (heads.DinoHead(count, *rest, norm=self.head_norm) for count in counts)
        if not self.weight_local:
            return {"cls": cls, "patch": patch}
        width = model.project_image.width
        region, sentence = (heads.Local(width, dtype=model.vision.dtype) for _ in range(2))
        return {"cls": cls, "patch": patch, "region": region, "sentence": sentence}

    def state(self, model: UniMedI) -> PyTree:
        """The centres, one a modality; they stay equal unless `centre_by_modality`."""
        counts = {"centre_cls": model.head_sizes.prototypes_cls, "centre_patch": model.head_sizes.prototypes_patch}
        return {kind: {modality: jnp.zeros(count) for modality in ("xray", "ct")} for kind, count in counts.items()}

    def stages(self) -> tuple["Objective", ...]:
        """One for each share of masked tokens on the way to `mask_ratio`: from 0, or from the first that hides any."""
        if not self.mask_ramp_steps or not self.mask_ratio:
            return (self,)
        drops = self.mask_mode == "drop"
        shares = [i / (self.mask_stages - drops) for i in range(1 - drops, self.mask_stages + 1 - drops)]
        return tuple(
            dataclasses.replace(self, mask_ratio=self.mask_ratio * share, mask_ramp_steps=0) for share in shares
        )

    def stage(self, step: Step) -> Int[Array, ""]:
        """The last one from `mask_ramp_steps` on, those before it for equally many steps."""
        last = len(self.stages()) - 1
        if not last:
            return super().stage(step)
        return jnp.minimum(step * last // self.mask_ramp_steps, last)

    def weight(self, loss: str, step: Step) -> Scalar:
        """Weights of L_icl and L_pcl grow from 0."""
        weight = super().weight(loss, step)
        if loss not in CENTRES or not self.distillation_ramp_steps:
            return weight
        return weight * jnp.minimum(step / self.distillation_ramp_steps, 1.0)

    def forward(self, student: UniMedI, teacher: UniMedI, batch: Batch, state: PyTree, step: Step) -> base.LossTerms:
        """L = w_vl L_vl + w_icl L_icl + w_pcl L_pcl over a mixed batch of X-rays and CTs."""
        targets = self.teacher_forward(teacher, batch, student.make_rng("draws"), step, student.slice_baseline)
        if "ct" in targets:
            follow_slices(student, targets["ct"].slice_scores)
        outputs, reports = self.student_forward(student, batch, targets)
        distilled, stats = self.distillation_losses(student, teacher, outputs, targets, state, step)
        terms = self.batch_losses(student, batch, outputs, reports) | distilled
        return base.LossTerms(terms, distillation.target_information(stats), self.update_centres(state, stats))

    @jax.named_scope("teacher")  # named in the compiled program: aot/traffic.py
    def teacher_forward(
        self, teacher: UniMedI, batch: Batch, key: Key[Array, ""], step: Step, baseline: SliceBaseline | None = None
    ) -> TeacherOutputs:
        """The teacher sees samples whole, scores their tokens and chooses; of a CT it chooses slices first.

        `baseline` is what the scores of slices are compared with: the student's, for a teacher has parameters alone.
        """
        keys = common.keys(key, "xray", "ct", "slices")  # no draw depends on the modalities at hand
        outputs = {}
        for modality in common.modalities(batch):
            tokens = batch[modality]["tokens"]
            layers = slice_scores = None
            if modality == "ct":
                layers, slice_scores = self.choose_layers(teacher, tokens, keys["slices"], step, baseline)
            whole = self.encode_whole(teacher, modality, tokens, layers, common.lateral(batch, modality))
            view = None
            if self.two_views:
                key_view = jax.random.fold_in(keys[modality], 0)
                view, boxes = crops.plane_view(key_view, teacher, modality, tokens, self)
                whole = None if whole is None else sequences.on_view(whole, teacher, modality, boxes)
            draw = selection.random_scores(
                keys[modality], jnp.zeros((len(tokens), sequences.length(teacher, modality)))
            )
            scores = self.scores(whole.scores if self.scores_tokens else None, draw, step)
            keep = self.choose_tokens(teacher, modality, scores) if self.mask_ratio else None
            output = TeacherOutput(*self.targets(teacher, whole, keep), keep, layers, slice_scores, view)
            outputs[modality] = jax.lax.stop_gradient(output)
        return outputs

    def encode_whole(
        self,
        teacher: UniMedI,
        modality: str,
        tokens: Array,
        layers: Int[Array, "b s"] | None,
        lateral: vision.Lateral = None,
    ) -> vision.Encoded | None:
        """The teacher on all tokens; None, and no pass, where neither the choice of tokens nor a target needs it."""
        if not self.scores_tokens and not any(self.computes(name, teacher) for name in CENTRES):
            return None
        embedded = sequences.embed(teacher, modality, tokens, layers, lateral=lateral)
        return teacher.encode(embedded, scores=self.scores_tokens)

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
    ) -> tuple[StudentOutputs, alignment.Reports]:
        """The student on the tokens that the teacher keeps, and on the reports, modality after modality.

        The other tokens are dropped, or hidden behind the mask token.
        """
        outputs = {}
        for modality, target in targets.items():
            tokens = batch[modality]["tokens"] if target.view is None else target.view
            lateral = common.lateral(batch, modality)
            if self.mask_mode == "drop":
                embedded = sequences.embed(student, modality, tokens, target.layers, lateral=lateral)
                encoded = student.encode(sequences.pick(embedded, target.keep))
                patches = encoded.patches
            else:
                hidden = sequences.complement(target.keep, sequences.length(student, modality))
                encoded = student.encode(sequences.embed(student, modality, tokens, target.layers, hidden, lateral))
                patches = self.compared(encoded.patches, target.keep)
            regions = student.head["region"](encoded.patches) if self.weight_local else None
            outputs[modality] = StudentOutput(encoded.cls, patches, regions)
        return outputs, self.encode_reports(student, batch)

    def encode_reports(self, student: UniMedI, batch: Batch) -> alignment.Reports:
        """Vectors of the reports, and beside them what the settings compare with images."""
        report = common.encode_reports(student, batch)
        others = {name: common.encode_reports(student, batch, name).vector for name in self.texts[1:]}
        if not self.weight_local:
            return alignment.Reports(report.vector, **others)
        inner = token_runs.inner(common.reports(batch)[1])
        sentences, _ = token_runs.means(report.words, inner, self.sentences)
        return alignment.Reports(report.vector, **others, sentences=student.head["sentence"](sentences))

    def batch_losses(
        self, student: UniMedI, batch: Batch, outputs: StudentOutputs, reports: alignment.Reports
    ) -> base.Losses:
        """The losses that compare samples of a batch with each other: L_vl, and what settings add to it."""
        cls = {modality: output.cls for modality, output in outputs.items()}
        terms = self.contrastive_losses(student, batch, cls, reports)
        if self.weight_local:
            regions = {modality: output.regions for modality, output in outputs.items()}
            terms["local"] = self.local_loss(batch, regions, reports.sentences)
        if self.weight_koleo:
            terms["koleo"] = {name: losses.koleo(x, self.contrastive_chunk) for name, x in cls.items()}
        return terms

    def contrastive_losses(
        self, student: UniMedI, batch: Batch, cls: dict[str, Float[Array, "_ d"]], reports: alignment.Reports
    ) -> base.Losses:
        """L_vl over all samples of the batch, CTs' and X-rays' reports being negatives of each other or not.

        With halves of reports it is the mean over both, and L_reports is the contrast between them (CXR-CLIP's text
        contrast, arXiv 2310.13292).
        """
        chunk, negated = self.contrastive_chunk, None
        vectors = [reports.vector, *(getattr(reports, name) for name in self.texts[1:])]
        # Normed together: what negation moves would vanish in statistics of its own.
        z_image, z_texts = student.project(cls, jnp.concatenate(vectors), True)
        z = dict(zip(self.texts, jnp.split(z_texts, len(vectors)), strict=True))
        if self.negation:
            text, turned = common.reports(batch)[0], common.reports(batch, "negated")[0]
            negated = losses.Negated(z["negated"], jnp.any(text != turned, axis=1))
        same, soft = self.same(batch), (self.soft_targets, self.soft_temperature)

        def contrast(one: Array, other: Array, opposite: losses.Negated | None = None) -> dict[str, Array]:
            groups = self.groups((one, other, same, opposite), batch)
            each = {
                name: losses.contrastive(a, b, self.temperature, number, chunk, soft, turned).mean(axis=0)
                for name, (a, b, number, turned) in groups.items()
            }
            return alignment.by_modality(each, batch)

        terms = {"vl": contrast(z_image, z["text"], negated)}
        if self.report_halves:
            second = contrast(z_image, z["other"])
            terms = {"vl": {name: (each + second[name]) / 2 for name, each in terms["vl"].items()}}
            terms["reports"] = contrast(z["text"], z["other"])
        return terms

    def local_loss(
        self, batch: Batch, regions: dict[str, Float[Array, "_ n e"]], sentences: Float[Array, "b s e"]
    ) -> dict[str, Float[Array, " _"]]:
        """Sentences against the patches of the images that meet their reports in L_vl."""
        real = token_runs.present(token_runs.inner(common.reports(batch)[1]), self.sentences)
        each = {}
        for name, (rows, present, same) in self.groups((sentences, real, self.same(batch)), batch).items():
            images = [regions[modality] for modality in ([name] if name else common.modalities(batch))]
            options = self.local_temperature, self.local_chunk
            logits = jnp.concatenate([alignment.sentence_logits(image, rows, *options) for image in images])
            each[name] = alignment.sentence_contrast(logits, present, same)
        return alignment.by_modality(each, batch)

    def same(self, batch: Batch) -> Int[Array, " b"] | None:
        """For each sample a number that those share which are no negatives of each other; None: all are."""
        if self.identical_reports:
            return losses.same_report(*common.reports(batch), self.contrastive_chunk)
        return common.studies(batch)

    def groups(self, rows: PyTree, batch: Batch) -> dict[str, PyTree]:
        """Rows of the joined batch by what is a negative of what."""
        return alignment.by_group(rows, batch, self.negatives == "modality")

    @jax.named_scope("distillation")
    def distillation_losses(
        self,
        student: UniMedI,
        teacher: UniMedI,
        outputs: StudentOutputs,
        targets: TeacherOutputs,
        state: PyTree,
        step: Step,
    ) -> tuple[base.Losses, distillation.Stats]:
        """L_icl on CLS and L_pcl on patches, and the teacher's logits and targets over the batch."""
        terms, stats = {}, {}
        for name, head, field in (("icl", "cls", "cls"), ("pcl", "patch", "patches")):
            if not self.computes(name, student):
                continue
            terms[name], stats[name] = {}, {}
            for modality, output in outputs.items():
                terms[name][modality], stats[name][modality] = distillation.distillation_loss(
                    student.head[head](getattr(output, field)),
                    teacher.head[head](getattr(targets[modality], field)),
                    self.assign(state[CENTRES[name]][modality], self.temperatures(step)[name]),
                    self.student_temperature,
                )
        return terms, stats

    def assign(self, centre: Float[Array, " p"], temperature: Float[Array, ""]) -> distillation.Assign:
        """How the teacher's logits become targets: centred and sharpened, or balanced by Sinkhorn-Knopp."""
        if self.centring == "sinkhorn":
            return lambda logits: distillation.balanced(logits, temperature, self.sinkhorn_iterations)
        return lambda logits: losses.assignments(logits, centre, temperature)

    def update_centres(self, state: PyTree, stats: distillation.Stats) -> PyTree:
        """The centres after this batch, one a modality; those of a loss without weight stay as they are.

        They stay equal, each following the whole batch, unless `centre_by_modality`.
        """
        if self.centring == "sinkhorn":
            return {kind: state[kind] for kind in CENTRES.values()}
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

    def choose_layers(
        self, teacher: UniMedI, tokens: Array, key: Key[Array, ""], step: Step, baseline: SliceBaseline | None
    ) -> tuple[Int[Array, "b s"], Float[Array, "b layers"] | None]:
        """The depth layers that eq. 2 ranks first, for the teacher on the volume alone; or random ones.

        Also what a baseline, above which layers are ranked, follows: their scores as they are.
        """
        layers, attention = teacher.volume_grid[0], None
        draw = selection.random_scores(key, jnp.zeros((len(tokens), layers)))
        if self.scores_slices(teacher.slices):
            volume = teacher.encode(teacher.embed_volume(tokens), scores=True)
            attention = selection.slice_scores(volume.scores, layers)
        if attention is None or baseline is None:
            return selection.topk_indices(self.scores(attention, draw, step), teacher.slices), None
        return selection.topk_indices(self.scores(baseline(attention), draw, step), teacher.slices), attention

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
            return sequences.pick(patches, keep)
        hidden = sequences.complement(keep, patches.shape[1]).astype(jnp.float32)
        return sequences.pick(patches, selection.topk_indices(hidden, hidden.shape[1] - keep.shape[1]))


def follow_slices(student: UniMedI, scores: Float[Array, "b layers"] | None) -> None:
    """The student's baseline, where it has one, follows the scores of a batch's CTs."""
    if scores is not None and student.slice_baseline is not None:
        student.slice_baseline.update(scores)
