"""Reports that have been tokenised: an epoch later the same report needs no tokenizer."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32

MOST_BYTES = 64 << 20  # of what is kept; each process that reads keeps its own
KEY_BYTES = 200  # what Python and NumPy add to an entry, about

Encoded = tuple[Int32[np.ndarray, " l"], Bool[np.ndarray, " l"]]


class Tokenised:
    """Token ids and masks of texts by their words, each text tokenised once while there is room.

    Nothing is ever replaced: every epoch reads all reports, and those that came first are as likely to come again as
    any. Threads may share it, for its entries do not change; a process starts with an empty one.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._bytes = most_bytes, 0
        self._known: dict[str, Encoded] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenised, (self._most,)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, text: str, encode: Callable[[str], Encoded]) -> Encoded:
        """`encode(text)`, ids int32 (l,) and mask bool (l,), neither of which may be written to."""
        known = self._known.get(text)
        if known is not None:
            return known
        ids, mask = encode(text)
        ids.flags.writeable = mask.flags.writeable = False
        size = len(text) + ids.nbytes + mask.nbytes + KEY_BYTES
        if self._bytes + size <= self._most:
            self._bytes += size
            self._known[text] = ids, mask
        return ids, mask
