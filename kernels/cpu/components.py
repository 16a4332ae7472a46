"""Connected components by a forest of parents, in which the root of a component is its smallest member."""

import numpy as np

from ._bits import compiled, inlined


@inlined
def _root(parents, member):
    while parents[member] != member:
        parents[member] = parents[parents[member]]
        member = parents[member]
    return member


@compiled
def unite(parents, pairs):
    """Join the components of each pair, uint64 a << 32 | b; return how many components became fewer. parents: int32 [E]."""
    joined = 0
    for pair in pairs:
        a, b = _root(parents, np.int64(pair >> np.uint64(32))), _root(parents, np.int64(pair & np.uint64(0xFFFFFFFF)))
        if a != b:
            parents[max(a, b)] = min(a, b)
            joined += 1
    return joined


@compiled
def labels(parents, of, positions, starts, found):
    """Set found[position], int64 [N], to the first position of the component of its entry; entries are in that order."""
    for position in range(of.shape[0]):
        found[position] = positions[starts[_root(parents, of[position])]]
