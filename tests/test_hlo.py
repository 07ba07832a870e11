"""Reading compiled programs: against what XLA and arithmetic say of programs small enough to count by hand."""

import math

import jax
import pytest
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from unimedi_jax import hlo, hlo_schedule, sharding

pytestmark = pytest.mark.usefixtures("eight_devices")


def program(function, *args) -> hlo.Program:
    return hlo.parse(jax.jit(function).lower(*args).compile().as_text())


def array(*sizes: int, dtype=jnp.float32, sharding=None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding)


@pytest.mark.parametrize("layers", [1, 5])
def test_products_in_a_loop_count_as_often_as_it_runs(layers: int) -> None:
    def loss(w, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0].sum()

    compiled = program(jax.grad(loss, argnums=(0, 1)), array(layers, 16, 16), array(8, 16))
    assert hlo.flops(compiled) == 3 * layers * 2 * 8 * 16 * 16  # forward, and two for the gradients


def test_batched_products_and_convolutions() -> None:
    einsum = program(lambda a, b: jnp.einsum("bhqk,bnhk->bhqn", a, b), array(2, 3, 4, 8), array(2, 5, 3, 8))
    assert hlo.flops(einsum) == 2 * (2 * 3 * 4 * 5) * 8

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    compiled = program(convolve, array(2, 9, 9, 3), array(3, 3, 3, 4))
    assert hlo.flops(compiled) == 2 * (2 * 4 * 4 * 4) * (3 * 3 * 3)


# A batched product as a TPU's compiler writes it: the batch is a spatial axis whose dilation lets each position of the
# output meet one cell of the input.
ON_A_TPU = """HloModule jit_f, num_partitions=4

%body (t.1: (s32[], bf16[4,8,16])) -> (s32[], bf16[4,8,16]) {
  %t.1 = (s32[]{:T(128)}, bf16[4,8,16]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%t.1), index=0
  %x = bf16[4,8,16]{2,1,0:T(8,128)(2,1)} get-tuple-element(%t.1), index=1
  %convolution.1 = bf16[4,8,8]{2,1,0:T(8,128)(2,1)S(1)} convolution(%x, %x), window={size=4 stride=3 lhs_dilate=4}, \
dim_labels=0bf_0oi->0bf
  %all-gather.1 = bf16[16,8,16]{2,1,0} all-gather(%x), replica_groups=[1,4]<=[4], dimensions={0}, \
metadata={op_name="jit(f)/gather"}
  ROOT %t.2 = (s32[]{:T(128)}, bf16[4,8,16]{2,1,0:T(8,128)(2,1)}) tuple(%i, %x)
}

%condition (t.3: (s32[], bf16[4,8,16])) -> pred[] {
  %t.3 = (s32[]{:T(128)}, bf16[4,8,16]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %limit = s32[]{:T(128)} constant(12)
  %i.2 = s32[]{:T(128)} get-tuple-element(%t.3), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.2, %limit), direction=LT
}

ENTRY %main (x.1: bf16[4,8,16]) -> bf16[4,8,16] {
  %x.1 = bf16[4,8,16]{2,1,0:T(8,128)(2,1)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %t = (s32[]{:T(128)}, bf16[4,8,16]{2,1,0:T(8,128)(2,1)}) tuple(%zero, %x.1)
  %while = (s32[]{:T(128)}, bf16[4,8,16]{2,1,0:T(8,128)(2,1)}) while(%t), condition=%condition, body=%body
  ROOT %out = bf16[4,8,16]{2,1,0:T(8,128)(2,1)} get-tuple-element(%while), index=1
}
"""


def test_the_words_of_a_tpu_compiler() -> None:
    compiled = hlo.parse(ON_A_TPU)
    assert compiled.times["body"] == 12
    assert hlo.flops(compiled) == 12 * 2 * 4 * 8 * 8 * 16
    [gather] = hlo.exchanged(compiled)
    assert (gather.kind, gather.bytes, gather.group, gather.times) == ("all-gather", 16 * 8 * 16 * 2, 4, 12)
    assert gather.wire == 12 * gather.bytes * 3 / 4
    assert gather.source == "jit(f)/gather"
    x = 4 * 8 * 16 * 2
    # The product reads its input twice and leaves its result in VMEM; the gather reads one share and writes four.
    assert hlo.bytes_moved(compiled) == 12 * ((x + x) + (x + 4 * x))


def test_the_words_of_the_gpu_libraries() -> None:
    text = """HloModule jit_f

ENTRY %main (a: bf16[32,64]) -> bf16[32,16] {
  %a = bf16[32,64]{1,0} parameter(0)
  %b = bf16[64,16]{1,0} constant({...})
  %q = bf16[2,197,12,64]{3,2,1,0} constant({...})
  %attention = (bf16[2,12,197,64]{3,1,2,0}, u8[0]{0}) custom-call(%q, %q, %q), \
custom_call_target="__cudnn$fmhaSoftmax", backend_config={"cudnn_fmha_backend_config":{"fmha_scale":0.125,\
"intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["2", "12", "197", "197"]}}}
  ROOT %gemm = (bf16[32,16]{1,0}, s8[4194304]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", \
backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],\
"rhs_contracting_dimensions":["0"]}}}
}
"""
    compiled = hlo.parse(text)
    assert hlo.flops(compiled) == 2 * 32 * 16 * 64 + 2 * 2 * (2 * 12 * 197 * 197) * 64
    assert hlo.called_targets(compiled) == {"__cudnn$fmhaSoftmax": 1, "__cublas$lt$matmul": 1}


@pytest.mark.parametrize(("array", "samples"), [("bf16[2,12,1024,64]{3,2,1,0}", 2), ("bf16[12,1024,64]{2,1,0}", 1)])
def test_the_kernel_of_a_tpu_says_something_of_itself_on_a_line_of_its_own(array: str, samples: int) -> None:
    text = """HloModule jit_f

ENTRY %main (q: ARRAY) -> ARRAY {
  %q = ARRAY parameter(0)
  %t = s8[1,2,1]{2,1,0} constant({...})
  %kernel = (f32[512,64]{1,0}, ARRAY) custom-call(%t, %t, %t, %q, %q, %q), \
custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, metadata={op_name="jit(f)/splash_mha_dkv_segmented_no_residuals/pallas_call" stack_frame_id=8}
  ROOT %out = ARRAY get-tuple-element(%kernel), index=1
}
""".replace("ARRAY", array)
    compiled = hlo.parse(text)
    assert hlo.flops(compiled) == 5 * 2 * samples * 12 * 1024**2 * 64
    assert hlo.called_targets(compiled) == {"tpu_custom_call": 1}


def test_collectives_between_eight_devices() -> None:
    mesh = sharding.make_mesh(data=2, fsdp=4)
    rows, columns = NamedSharding(mesh, P(("data", "fsdp"))), NamedSharding(mesh, P("fsdp"))

    def loss(w, x):
        return jnp.mean((x @ w) ** 2)

    with jax.set_mesh(mesh):
        step = jax.jit(jax.grad(loss), out_shardings=columns)
        text = step.lower(array(64, 32, sharding=columns), array(16, 64, sharding=rows)).compile().as_text()
    compiled = hlo.parse(text)
    assert compiled.devices == 8
    whole = 64 * 32 * 4
    gathers = [one for one in hlo.exchanged(compiled) if one.kind == "all-gather"]
    assert [(one.bytes, one.group, one.times) for one in gathers] == [(whole, 4, 1)]
    # The gradient comes together in two steps: over what shares a column of the mesh, then over the rest.
    sums = [one for one in hlo.exchanged(compiled) if one.kind in ("all-reduce", "reduce-scatter")]
    assert math.prod(one.group for one in sums) == 8
    assert {one.bytes for one in sums} <= {whole, whole // 4}
    assert all(one.wire <= 2 * one.bytes for one in sums)


def test_traffic_of_a_sum_of_two_arrays() -> None:
    compiled = program(lambda a, b: a + b, array(1000), array(1000))
    assert hlo.bytes_moved(compiled) == 3 * 4000


def test_a_loop_over_layers_reads_each_layer_once() -> None:
    """Not the whole stack in every turn, though the stack is what the loop's fusions get."""
    layers, width = 16, 64

    def forward(w, x):
        return jax.lax.scan(lambda x, w: (x + w, None), x, w)[0]

    moved = hlo.bytes_moved(program(forward, array(layers, width, width), array(width, width)))
    once = layers * width * width * 4
    assert once <= moved < 8 * once


def test_bytes_of_a_shape() -> None:
    arrays = hlo.shapes("(f32[8,2]{1,0}, pred[3], bf16[2,2]{1,0:T(8,128)(2,1)S(1)}, s4[6], f8e4m3fn[5], s32[])")
    assert [shape.bytes for shape in arrays] == [64, 3, 8, 3, 5, 4]
    assert [shape.main for shape in arrays] == [True, True, False, True, True, True]


# Two products of 2 * 16 * 16 * 16 operations: one beside the first exchange, one after its end. The second exchange has
# nothing beside it.
SCHEDULED = """HloModule jit_f, is_scheduled=true, num_partitions=4

%body (t.1: (s32[], f32[16,16])) -> (s32[], f32[16,16]) {
  %t.1 = (s32[], f32[16,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t.1), index=0
  %x = f32[16,16]{1,0} get-tuple-element(%t.1), index=1
  %start = (f32[16,16]{1,0}, f32[64,16]{1,0}) all-gather-start(%x), replica_groups=[1,4]<=[4], dimensions={0}
  %beside = f32[16,16]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}, \
metadata={op_name="jit(f)/mlp/dot_general"}
  %done = f32[64,16]{1,0} all-gather-done(%start)
  %after = f32[16,16]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}, \
metadata={op_name="jit(f)/attention/dot_general"}
  %sum = f32[16,16]{1,0} all-reduce(%after), replica_groups=[1,4]<=[4], to_apply=%add
  ROOT %t.2 = (s32[], f32[16,16]{1,0}) tuple(%i, %sum)
}

%condition (t.3: (s32[], f32[16,16])) -> pred[] {
  %t.3 = (s32[], f32[16,16]{1,0}) parameter(0)
  %limit = s32[] constant(3)
  %i.2 = s32[] get-tuple-element(%t.3), index=0
  ROOT %lt = pred[] compare(%i.2, %limit), direction=LT
}

ENTRY %main (x.1: f32[16,16]) -> f32[16,16] {
  %x.1 = f32[16,16]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %t = (s32[], f32[16,16]{1,0}) tuple(%zero, %x.1)
  %while = (s32[], f32[16,16]{1,0}) while(%t), condition=%condition, body=%body
  ROOT %out = f32[16,16]{1,0} get-tuple-element(%while), index=1
}
"""


@pytest.mark.parametrize(
    ("product", "byte", "whole", "waiting"),
    [
        (10.0, 1 / 1024, 10 + 10 + 1.5, 1.5),  # the gather sends 3 kB beside 10 s, the sum 1.5 kB alone
        (2.0, 1 / 1024, 3 + 2 + 1.5, 1 + 1.5),  # the first product hides 2 of 3 s
        (0.0, 1 / 1024, 3 + 1.5, 3 + 1.5),
        (2.0, 0.0, 4.0, 0.0),
    ],
)
def test_exchanges_that_arithmetic_hides(product: float, byte: float, whole: float, waiting: float) -> None:
    compiled = hlo.parse(SCHEDULED)
    times = hlo_schedule.simulate(compiled, lambda operations, _: product * operations / 8192, lambda n: byte * n)
    assert times == pytest.approx((3 * whole, 3 * waiting))


def test_traffic_by_source() -> None:
    moved = hlo.bytes_by_source(hlo.parse(SCHEDULED))
    array = 16 * 16 * 4
    assert moved["jit(f)/mlp/dot_general"] == moved["jit(f)/attention/dot_general"] == 3 * 3 * array
    assert sum(moved.values()) == hlo.bytes_moved(hlo.parse(SCHEDULED))
