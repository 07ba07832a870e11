"""What teacher and student see of a batch: the teacher everything, the student what the teacher finds telling."""

from typing import NamedTuple

import jax
from jax import numpy as jnp

from unimedi_jax import selection
from unimedi_jax.models import towers
from unimedi_jax.objectives.settings import Settings
from unimedi_jax.typing import Array, Float, Int, Key, Params


class Taught(NamedTuple):
    """The teacher on one modality: what it makes of the samples, and what the student is to see. No gradient."""

    cls: Float[Array, "b d"]
    patches: Float[Array, "b m d"]  # at the positions where the patch loss looks
    keep: Int[Array, "b k"]  # tokens that the student sees
    layers: Int[Array, "b s"] | None  # depth layers whose slices join a CT


class Seen(NamedTuple):
    """The student on the same samples, position for position."""

    cls: Float[Array, "b d"]
    patches: Float[Array, "b m d"]


def teach(
    name: str,
    teacher: Params,
    tokens: Array,
    key: Key[Array, ""],
    step: Int[Array, ""],
    *,
    model: towers.UniMedI,
    objective: Settings,
) -> Taught:
    """The teacher sees a sample whole, scores its tokens and chooses; of a CT it chooses slices first."""
    layers = None
    if name == "ct":
        key, key_slices = jax.random.split(key)
        layers = _choose_layers(teacher, tokens, key_slices, step, model=model, objective=objective)
    whole = _embed(name, teacher, tokens, layers, model=model)
    seen = model.apply({"params": teacher}, whole, True, method="encode")
    scores = objective.scores(objective.mask_by, seen.scores, selection.random_scores(key, seen.scores), step)
    keep = _choose(name, scores, tokens.shape[1], model=model, objective=objective)
    patches = selection.gather(seen.patches, _compared(keep, scores.shape[1], objective=objective))
    return jax.lax.stop_gradient(Taught(seen.cls, patches, keep, layers))


def see(
    name: str, params: Params, tokens: Array, taught: Taught, *, model: towers.UniMedI, objective: Settings
) -> Seen:
    """The student sees the kept tokens; the others are dropped, or hidden behind the mask token."""
    if objective.mask_mode == "drop":
        whole = _embed(name, params, tokens, taught.layers, model=model)
        seen = model.apply({"params": params}, selection.gather(whole, taught.keep), False, method="encode")
        return Seen(seen.cls, seen.patches)
    length = taught.keep.shape[1] + taught.patches.shape[1]
    hidden = _hidden(taught.keep, length)
    whole = _embed(name, params, tokens, taught.layers, hidden, model=model)
    seen = model.apply({"params": params}, whole, False, method="encode")
    return Seen(seen.cls, selection.gather(seen.patches, _compared(taught.keep, length, objective=objective)))


def _embed(
    name: str,
    params: Params,
    tokens: Array,
    layers: Array | None,
    hidden: Array | None = None,
    *,
    model: towers.UniMedI,
) -> Float[Array, "b n d"]:
    """All tokens of a film, or [slices, volume] of a CT, with their positions."""
    if name == "xray":
        return model.apply({"params": params}, tokens, hidden, method="embed_xray")
    return model.apply({"params": params}, tokens, layers, hidden, method="embed_ct")


def _choose_layers(
    teacher: Params,
    tokens: Array,
    key: Key[Array, ""],
    step: Int[Array, ""],
    *,
    model: towers.UniMedI,
    objective: Settings,
) -> Int[Array, "b s"]:
    """The teacher on the volume alone: the depth layers that eq. 2 ranks first."""
    volume = model.apply({"params": teacher}, tokens, method="embed_volume")
    scores = model.apply({"params": teacher}, volume, True, method="encode").scores
    # One random draw per layer, spread over its tokens, so that eq. 2 returns just that draw.
    layers = model.volume_grid[0]
    draw = selection.random_scores(key, jnp.zeros((len(tokens), layers)))
    draw = jnp.repeat(draw, volume.shape[1] // layers, axis=1)
    return model.choose_layers(objective.scores(objective.slices_by, scores, draw, step))[1]


def _choose(
    name: str, scores: Float[Array, "b n"], n: int, *, model: towers.UniMedI, objective: Settings
) -> Int[Array, "b k"]:
    """The tokens to keep; `n` is their number without slices."""
    share = objective.mask_ratio
    if name == "xray" and objective.mask_block > 1:
        cells, block = model.vision.image_grid, objective.mask_block
        blocks = selection.kept(cells[0] * cells[1] // block**2, share)
        return selection.top_blocks(scores, cells, block, blocks)
    if objective.mask_scope == "sequence" or scores.shape[1] == n:
        return selection.top(scores, selection.kept(scores.shape[1], share))
    slices, volume = scores[:, :-n], scores[:, -n:]
    first = selection.top(slices, selection.kept(slices.shape[1], share))
    second = selection.top(volume, selection.kept(n, share)) + slices.shape[1]
    return jnp.concatenate([first, second], axis=1)


def _compared(keep: Int[Array, "b k"], length: int, *, objective: Settings) -> Int[Array, "b m"]:
    """Where the patch loss looks: at the kept tokens, or with mask tokens at all others (iBOT)."""
    if objective.mask_mode == "drop":
        return keep
    return selection.top(_hidden(keep, length).astype(jnp.float32), length - keep.shape[1])


def _hidden(keep: Int[Array, "b k"], length: int) -> Array:
    return jnp.ones((len(keep), length), bool).at[jnp.arange(len(keep))[:, None], keep].set(False)
