"""Scaled dot-product attention by XLA's plain products, in blocks, or by the fused kernels of NVIDIA and of TPUs."""

import functools
import math
from collections.abc import Callable

import jax
from jax import numpy as jnp

from unimedi_jax import placement
from unimedi_jax.typing import Array, Bool, Float

KINDS = ("xla", "blocks", "cudnn", "splash")
LANES = 128  # of a TPU: the kernel wants lengths in multiples of it
AT_ONCE, HELD = 1024, 8192  # keys that a product of the kernel takes, and that it keeps in a TPU's own memory
# Tokens up to which "xla" is as good or better (docs/performance_trials.md): a TPU keeps the scores in its own memory.
SHORT = {"splash": 600, "blocks": 256}

Queries = Float[Array, "b q h k"]
Keys = Float[Array, "b n h k"]
Drop = Callable[[Array], Array]


def attend(q: Queries, k: Keys, v: Keys, mask: Bool[Array, "b n"] | None = None, kind: str = "xla") -> Queries:
    """softmax(q k / sqrt(width)) v for every head; keys where `mask` is False are left out. Softmax in float32.

    - "xla": plain products, which hold an array of (heads, n, n) for each sample.
    - "blocks", for CPUs: one head of one sample at a time, made once more in the backward pass, twice as fast as "xla"
      at 900 tokens. It holds one (n, n). Short sequences by `short`.
    - "cudnn": NVIDIA's fused kernel, for bfloat16 and without a mask.
    - "splash": the fused kernel for TPUs that comes with JAX.

    Sequences of `SHORT` tokens or fewer, and what a kernel does not take, are left to plain products.
    """
    if kind == "cudnn" and mask is None:
        return _cudnn(q, k, v)
    if kind in SHORT and k.shape[1] > SHORT[kind]:
        return {"splash": splash, "blocks": blocks}[kind](q, k, v, mask)
    return (short if kind == "blocks" else plain)(q, k, v, mask)


def fitting(device: jax.Device, dtype: str) -> str:
    """The kind for a device and the dtype of the arithmetic; the device may be one that is compiled for alone."""
    if device.platform == "tpu":
        return "splash"
    if device.platform == "cpu":
        return "blocks"
    # Ampere and later: what came before has no bfloat16.
    fused = "NVIDIA" in device.device_kind and float(getattr(device, "compute_capability", 0)) >= 8
    return "cudnn" if fused and dtype in ("bfloat16", "float16") else "xla"


def plain(q: Queries, k: Keys, v: Keys, mask: Bool[Array, "b n"] | None = None, drop: Drop = lambda x: x) -> Queries:
    """By products of all heads at once; `drop` acts on the weights (BERT's dropout, which fused kernels lack)."""
    # Heads stand in front of the products: XLA's for CPUs copies less than for jax.nn.dot_product_attention.
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    weights = jax.nn.softmax(_logits(q, k, None if mask is None else mask[:, None, None]))
    return jnp.einsum("bhqn,bhnk->bhqk", drop(weights.astype(v.dtype)), v).swapaxes(1, 2)


@jax.custom_vjp
def short(q: Queries, k: Keys, v: Keys, mask: Bool[Array, "b n"] | None = None) -> Queries:
    """As `plain`, in the form that XLA's compiler for CPUs makes the fastest program of (docs/performance_trials.md).

    The products are divided by the sums of the weights, not the weights, so that one loop makes powers and products.
    The backward pass is written out because the sum over n of weights and their gradients is also that over the width
    of the result and its gradient (Dao et al., FlashAttention, arXiv 2205.14135, appendix B.2), which is shorter.
    """
    return _short(q, k, v, mask)[0]


def _short(q: Array, k: Array, v: Array, mask: Array | None) -> tuple[Array, tuple[Array, ...]]:
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    logits = _logits(q, k, None if mask is None else mask[:, None, None])
    powers = jnp.exp(logits - logits.max(-1, keepdims=True))
    sums = powers.sum(-1, keepdims=True)
    powers = powers.astype(v.dtype)
    attended = (jnp.einsum("bhqn,bhnk->bhqk", powers, v) / sums).astype(v.dtype)
    return attended.swapaxes(1, 2), (q, k, v, powers, sums, attended)


def _short_backward(residuals: tuple[Array, ...], grad: Queries) -> tuple[Array, Array, Array, None]:
    q, k, v, powers, sums, attended = residuals
    scale, wide = q.shape[-1] ** -0.5, jnp.float32
    grad = (grad.swapaxes(1, 2) / sums).astype(v.dtype)
    inner = jnp.sum(grad * attended, -1, keepdims=True, dtype=wide)
    to_weights = jnp.einsum("bhqk,bhnk->bhqn", grad, v, preferred_element_type=wide)
    to_logits = (powers * (to_weights - inner)).astype(q.dtype)
    # The queries, over which is summed, stand last in the smaller factor: they would cost more in the larger one.
    to_q = jnp.einsum("bhqn,bhnk->bhqk", to_logits, k * scale).swapaxes(1, 2)
    to_k = jnp.einsum("bhkq,bhqn->bhkn", (q * scale).swapaxes(2, 3), to_logits).transpose(0, 3, 1, 2)
    to_v = jnp.einsum("bhkq,bhqn->bhkn", grad.swapaxes(2, 3), powers).transpose(0, 3, 1, 2)
    return to_q, to_k, to_v, None


short.defvjp(_short, _short_backward)


def blocks(q: Queries, k: Keys, v: Keys, mask: Bool[Array, "b n"] | None = None) -> Queries:
    """One head of one sample after the other."""
    mask = jnp.ones(k.shape[:2], bool) if mask is None else mask

    def head(part: tuple[Array, ...]) -> Array:
        q, k, v, keys = part
        return jax.nn.softmax(_logits(q, k, keys[None])).astype(v.dtype) @ v

    def local(q: Array, k: Array, v: Array, mask: Array) -> Array:
        keys = jnp.repeat(mask, q.shape[1], axis=0)
        each = jax.checkpoint(head, prevent_cse=False)
        attended = jax.lax.map(each, (*(x.reshape(-1, *x.shape[2:]) for x in (q, k, v)), keys))
        return attended.reshape(q.shape)

    return placement.per_device(local)(*(x.swapaxes(1, 2) for x in (q, k, v)), mask).swapaxes(1, 2)


def _logits(q: Float[Array, "*b q k"], k: Float[Array, "*b n k"], keys: Array | None) -> Float[Array, "*b q n"]:
    logits = jnp.einsum("...qk,...nk->...qn", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    return logits if keys is None else jnp.where(keys, logits, jnp.finfo(logits.dtype).min)


def _cudnn(q: Queries, k: Keys, v: Keys) -> Queries:
    return (_odd if q.shape[1] % 2 else _fused)(q, k, v)


def _fused(q: Queries, k: Keys, v: Keys, **lengths: Array) -> Queries:
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn", **lengths)


@jax.custom_vjp
def _odd(q: Queries, k: Keys, v: Keys) -> Queries:
    """Where nothing is differentiated, as in the teacher's pass, the kernel takes any length."""
    return _fused(q, k, v)


def _padded(q: Queries, k: Keys, v: Keys) -> Queries:
    """The kernel's backward pass takes even lengths alone: an odd one gets a token that it leaves out on both sides."""
    batch, n = q.shape[:2]
    q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
    lengths = jnp.full(batch, n, jnp.int32)
    return _fused(q, k, v, query_seq_lengths=lengths, key_value_seq_lengths=lengths)[:, :n]


_odd.defvjp(functools.partial(jax.vjp, _padded), lambda pull, grad: pull(grad))


def splash(q: Queries, k: Keys, v: Keys, mask: Bool[Array, "b n"] | None = None, *, interpret: bool = False) -> Queries:
    """Lengths are filled up to whole lanes. `interpret` runs the kernel on a CPU, slowly, for the tests.

    What a query sees that is masked itself is without meaning.
    """
    batch, n = k.shape[:2]
    more = -n % (LANES if n <= AT_ONCE else 4 * LANES)  # so that long ones divide into few blocks
    real = jnp.ones((batch, n), bool) if mask is None else mask
    # Keys that do not count are of another segment than the queries that do.
    segments = jnp.pad(real, ((0, 0), (0, more))).astype(jnp.int32)
    q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)  # the kernel does not scale
    q, k, v = (jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))).swapaxes(1, 2) for x in (q, k, v))
    local = placement.per_device(functools.partial(_splash, interpret=interpret))
    return local(q, k, v, segments).swapaxes(1, 2)[:, :n]


def _largest_divisor(n: int, unit: int, most: int) -> int:
    return max(size for size in range(unit, min(n, most) + 1, unit) if n % size == 0)


def _splash(q: Array, k: Array, v: Array, segments: Array, interpret: bool) -> Float[Array, "b h n k"]:
    # Imported where it is used: Pallas takes long, and TPUs alone need it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    heads, n = q.shape[1:3]
    queries, at_once = math.gcd(n, 512), _largest_divisor(n, LANES, AT_ONCE)
    # The backward pass writes the queries' gradients once for each block of keys that is held.
    held = _largest_divisor(n, at_once, HELD)
    sizes = kernels.BlockSizes(queries, held, at_once, queries, held, at_once, use_fused_bwd_kernel=True)
    whole = masks.MultiHeadMask([masks.FullMask((n, n))] * heads)
    kernel = kernels.make_splash_mha(whole, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret)
    return jax.vmap(kernel)(q, k, v, kernels.SegmentIds(segments, segments))
