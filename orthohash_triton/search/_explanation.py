"""The result of `explain`: the plan of a search, its expected costs, and the codes that it compared."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Explanation:
    """How an index answers a search: the plan that it chooses, what it expected of each plan, and what the queries met.

    Attributes:
        plan: "scan" (every code is compared), "filing" (only rings of codes that can be near) or "lookup" (only codes that
            share a part with the query).
        reason: Why this plan was chosen.
        queries: The number of queries.
        codes: The number of codes that may be found, before `mask` is applied.
        tail: The codes behind those that the structures cover, which are scanned.
        structures: A line about each structure.
        estimates: The expected cost of each plan as a share of the cost of the scan, by the name of the plan.
        entries: The distinct codes that are filed.
        entries_met: The number of distinct codes that were compared, over all queries that did not give up.
        rings: The rings in which the distinct codes are filed.
        candidates: The number of buckets and codes that the lookup met, over all queries that did not give up.
        given_up: The queries that would have met too much, and for which the codes were scanned.

    Example:
        >>> import numpy as np
        >>> import orthohash_triton as oht
        >>> index = oht.HammingIndex(8)
        >>> index.add(np.array([[5], [7]], np.uint8))
        >>> print(index.explain(np.array([[7]], np.uint8), 1))
        plan: scan, because there are no structures
        1 query among 2 codes
        expected cost: scan 1
    """

    plan: str
    reason: str
    queries: int
    codes: int
    tail: int = 0
    structures: tuple[str, ...] = ()
    estimates: dict[str, float] = field(default_factory=lambda: {"scan": 1.0})
    entries: int = 0
    entries_met: int = 0
    rings: int = 0
    candidates: int = 0
    given_up: int = 0

    def __str__(self) -> str:
        lines = [
            f"plan: {self.plan}, because {self.reason}",
            f"{_counted(self.queries, 'query', 'queries')} among {self.codes:,} codes",
        ]
        lines += [f"- {line}" for line in self.structures]
        if self.structures:
            lines.append(f"- tail of {_counted(self.tail, 'code', 'codes')}, which is scanned")
        lines.append("expected cost: " + ", ".join(f"{plan} {share:.3g}" for plan, share in self.estimates.items()))
        if self.plan == "filing":
            met = self.entries_met / max(self.queries - self.given_up, 1)
            lines.append(f"met: {met:,.1f} of {self.entries:,} distinct codes for each query")
        if self.plan == "lookup":
            met = self.candidates / max(self.queries - self.given_up, 1)
            lines.append(f"met: {met:,.1f} buckets and codes for each query")
        if self.plan != "scan":
            lines.append(f"gave up and were scanned: {_counted(self.given_up, 'query', 'queries')}")
        return "\n".join(lines)


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
