"""How far apart two float32 programs of one formula may lie: as far as rounding takes them.

No two compilers, processors or libraries add in the same order, so their results differ in the last digits. By how much
follows from the arithmetic, not from the machine on which a test first ran. A wrong formula is off by far more.
"""

import math

EPS = 2.0**-23  # from 1 to the next float32
BFLOAT16 = 2.0**-7  # from 1 to the next bfloat16
# Two results of one rounding differ by 0.4 EPS (two independent errors, each uniform within half an EPS); of a million
# such values the worst differs by 5 times that; what is added up may be 4 times as large as the sum.
WORST = 8
LAYER_SUMS = 8  # sums in a transformer's layer: two norms, projections, scores, weighted values, output, two of the MLP


def float32(length: int, depth: int = 1, scale: float = 1.0) -> float:
    """The absolute error to allow: roundings in a row add up like a random walk, n of them to sqrt(n).

    length: Terms of the longest sum on the way: a layer's width, the tokens, the prototypes, the batch.
    depth: How many sums follow one another, LAYER_SUMS for each layer of a transformer. A gradient goes there and back.
    scale: Size of the values compared, times what enlarges their errors on the way, as 1 / temperature does.
    """
    return WORST * EPS * math.sqrt(length * depth) * scale
