"""Names of dimensions, and of the nested structures that modules pass to each other.

Dimension letters, the same in every annotation:

    b batch       n image tokens      l report tokens    d width         h heads
    k head width  e joint embedding   p prototypes       v voxels/pixels of one patch
    s slices      m kept tokens       z y x  space, in LPS order (Left, Posterior, Superior grow)
"""

from typing import Any

from jaxtyping import Array, Bool, Float, Int, Int16, Key, Num, Shaped, UInt, UInt8  # noqa: F401 (for all others)

PyTree = Any  # nested dict of arrays
Params = dict[str, Any]  # linen parameters of one network
Batch = dict[str, dict[str, Any]]  # {"xray": {"tokens", "text", "text_mask"}, "ct": {...}}
Step = Int[Array, ""]  # number of the training step
Scalar = Float[Array, ""] | float
TextIds = Int[Array, "b l"]  # of the tokenizer's vocabulary
TextMask = Bool[Array, "b l"]  # False on padding
Metrics = dict[str, Any]  # name -> mean.Mean on the device, float on the host
