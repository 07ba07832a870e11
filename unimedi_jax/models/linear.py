"""Dense layers and GELU in the form that XLA's compilers make the fastest programs of (docs/performance_trials.md)."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
from jax import numpy as jnp

from unimedi_jax.typing import Array, Float


@jax.custom_vjp
def product(x: Float[Array, "*b n"], kernel: Float[Array, "n m"]) -> Float[Array, "*b m"]:
    """x @ kernel; on CPUs the kernel's gradient is a product of two matrices, whatever axes the rows of x have.

    Over several axes of rows XLA's compiler for CPUs copies both sides into another order first. On TPUs it is making
    the rows one axis that copies.
    """
    return x @ kernel


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel, (x, kernel)


def _backward(residuals: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    rows = tuple(range(x.ndim - 1))

    def matrices(x: Array, grad: Array) -> Array:
        return x.reshape(-1, x.shape[-1]).T @ grad.reshape(-1, grad.shape[-1])

    def whole(x: Array, grad: Array) -> Array:
        return jnp.tensordot(x, grad, (rows, rows))

    return grad @ kernel.T, jax.lax.platform_dependent(x, grad, cpu=matrices, default=whole)


product.defvjp(_forward, _backward)


def _dot_general(x: Array, kernel: Array, dims: Any, precision: Any = None) -> Array:
    return product(x, kernel)


Dense = functools.partial(nn.Dense, dot_general=_dot_general)


@jax.custom_jvp
def gelu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """GELU with the error function itself, as ViT and BERT have it (Hendrycks & Gimpel, arXiv 1606.08415).

    `jax.nn.gelu(approximate=False)` is by erfc, which keeps its digits far below 0 too, where nothing is left of x,
    and takes three times as long on a CPU. Inside it is float32; of its activations the slope alone is kept.
    """
    wide = x.astype(jnp.float32)
    return (wide * _below(wide)).astype(x.dtype)


@gelu.defjvp
def _gelu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * wide**2) * (2 * math.pi) ** -0.5
    slope = (_below(wide) + wide * density).astype(x.dtype)
    return gelu(x), slope * tangent


def _below(x: Array) -> Array:
    """How much of a normal distribution lies below x."""
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))
