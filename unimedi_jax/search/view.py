"""An answer as a table for the terminal and as JSON."""

import collections
import dataclasses
from typing import Any

from unimedi_jax.search import query
from unimedi_jax.search.query import Answer
from unimedi_jax.search.ranking import KINDS, Hit
from unimedi_jax.search.store import Index

NAMES = {"xray": "X-ray", "ct": "CT", "report": "report"}
LONGEST_ID = 40  # letters of an id in the table


@dataclasses.dataclass(frozen=True)
class Shown:
    """What is said of each case near a query, best first, by kind: "pictures" and "reports"."""

    hits: dict[str, list[tuple[Hit, dict[str, Any]]]]

    @classmethod
    def of(cls, index: Index, answer: Answer, *, show_reports: bool) -> "Shown":
        """The facts of each hit; report texts only where they are to be shown and the index holds them."""
        return cls(
            {
                kind: [(hit, query.facts(index, hit, show_reports=show_reports)) for hit in getattr(answer, kind)]
                for kind in KINDS
            }
        )

    def json(self) -> dict[str, Any]:
        """{"pictures": [{"rank", "score", "id", "patient", "modality", "split", "labels"}, ...], "reports": [...]}."""
        return {
            kind: [{"rank": rank, **facts} for rank, (_, facts) in enumerate(hits, 1)]
            for kind, hits in self.hits.items()
        }


def table(shown: Shown) -> str:
    """Two tables: nearest pictures and nearest reports."""
    lines = []
    for kind, hits in shown.hits.items():
        lines += [f"nearest {kind}" if hits else f"nearest {kind}: none"]
        lines += [f"{'':>4}  {'score':>6}  {'':<6} {'split':<6} {'id':<{LONGEST_ID}} findings"] if hits else []
        for rank, (_, facts) in enumerate(hits, 1):
            name = facts["id"] if len(facts["id"]) <= LONGEST_ID else f"...{facts['id'][3 - LONGEST_ID :]}"
            start = f"{rank:>4}  {facts['score']:>6.3f}  {facts['modality']:<6} {facts['split']:<6}"
            lines.append(f"{start} {name:<{LONGEST_ID}} {query.findings(facts['labels'])}")
            if facts.get("report"):
                lines.append(f"{'':>14}{' '.join(facts['report'].split())}")
    return "\n".join(lines)


def summary(index: Index) -> str:
    """How many cases of which kind an index holds."""
    counts = index.once("counts", lambda: collections.Counter(index.columns["modality"]))
    parts = [f"{count:,} {NAMES.get(name, name)}{'s' * (count != 1)}" for name, count in sorted(counts.items())]
    return ", ".join(parts) or "no cases"
