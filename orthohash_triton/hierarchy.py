"""Class hierarchies: how far two classes are from each other."""

import difflib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ._base import checks

_OP = "class_distance"
_KINDS = "a nested dict (leaves by name), a dict child -> parent, or a list of pairs (child, parent)"
_SHOWN = 5  # names in a message

Parents = dict[Hashable, list[Hashable]]  # of every node; none of a root


def class_distance(hierarchy: Any, classes: Sequence[Hashable]) -> Tensor:
    """Distances between classes of a hierarchy, in [0, 1]: d(u, v) = height(lcs(u, v)) / height(root).

    The dissimilarity of Barz and Denzler (Hierarchy-based Image Embeddings for Semantic Image Retrieval, WACV 2019),
    who take it from Deng et al. (CVPR 2011). It is an ultrametric on a tree.

    All terms are those of the part of the hierarchy that the classes span, so that branches without a class change nothing:

    - spanned are the classes and everything above them;
    - height(x) is the number of edges of the longest path from x down to a class;
    - lcs(u, v), the lowest common subsumer, is the node of the smallest height that is above both (or is one of them, if that is
      above the other). It need not be the only lowest one: a node may have several parents;
    - root is the node of the smallest height that is above all classes. On a tree the two farthest classes are thus 1 apart.

    Barz and Denzler's released code differs where the hierarchy is no tree or the classes are not all of its leaves: it takes the
    deepest common subsumer, and all heights in the whole hierarchy. To get heights in the whole hierarchy pass all its leaves and
    pick rows and columns of the answer.

    Args:
        hierarchy: a nested dict whose keys are groups and whose values are again such dicts, or lists of names of leaves (None or
            an empty dict make the key a leaf): `{"clothing": {"tops": ["shirt", "pullover"], "trousers": None}}`;
            a dict child -> parent: `{"shirt": "tops", "tops": "clothing"}`;
            or pairs (child, parent), where a child may have several parents. Names are strings or anything hashable.
        classes: C names, leaves or not, in the order of the class ids.

    Returns:
        float32 [C, C] on the CPU, symmetric, with a zero diagonal.

    Raises:
        TypeError: a hierarchy of another kind.
        ValueError: a class that is not in the hierarchy or is named twice, a name that occurs twice in a nested dict, a cycle,
            more than one root, or no class. The message names them.
    """
    classes = _check_classes(classes)
    parents = _parents(hierarchy)
    _check_members(classes, parents)
    _check_one_root(parents)
    order = _upwards(parents)
    heights, below = _heights(classes, parents, order), _below(classes, parents, order)
    spanned = sorted((node for node in order if below[node]), key=lambda node: heights[node], reverse=True)
    distance = torch.zeros(len(classes), len(classes), dtype=torch.float32, device="cpu")
    for node in spanned:  # from the root down: a lower subsumer overwrites a higher one
        members = torch.tensor(sorted(below[node]), device="cpu")
        distance[members[:, None], members] = float(heights[node])
    root = min((node for node in spanned if len(below[node]) == len(classes)), key=lambda node: heights[node])
    distance.fill_diagonal_(0)
    return distance / max(1, heights[root])


def _check_classes(classes: Any) -> list[Hashable]:
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise TypeError(f"{_OP}: classes must be a sequence of names; got {checks.describe(classes)}")
    names = list(classes)
    if not names:
        raise ValueError(f"{_OP}: classes must name at least one class; got none")
    if twice := _repeated(names):
        raise ValueError(f"{_OP}: classes must be different; got {_listed(twice)} more than once")
    return names


def _parents(hierarchy: Any) -> Parents:
    """The parents of every node, whatever the hierarchy is given as."""
    if isinstance(hierarchy, Mapping):
        return _from_pairs(hierarchy.items()) if _is_parent_table(hierarchy) else _from_nested(hierarchy)
    if isinstance(hierarchy, str) or not isinstance(hierarchy, Iterable):
        raise TypeError(f"{_OP}: hierarchy must be {_KINDS}; got {checks.describe(hierarchy)}")
    pairs = list(hierarchy)
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"{_OP}: hierarchy must be {_KINDS}; got a list with {pair!r:.80}, which is no pair")
    return _from_pairs(pairs)


def _is_parent_table(hierarchy: Mapping[Any, Any]) -> bool:
    return bool(hierarchy) and not any(_is_group(value) for value in hierarchy.values())


def _is_group(value: Any) -> bool:
    return value is None or isinstance(value, Mapping | list | tuple | set | frozenset)


def _from_pairs(pairs: Iterable[Any]) -> Parents:
    parents: Parents = {}
    for child, parent in dict.fromkeys(map(tuple, pairs)):
        parents.setdefault(child, []).append(parent)
        parents.setdefault(parent, [])
    return parents


def _from_nested(hierarchy: Mapping[Any, Any]) -> Parents:
    edges = list(_edges(hierarchy, None))
    if twice := _repeated([child for child, _ in edges]):
        raise ValueError(
            f"{_OP}: a nested hierarchy must name everything once; got {_listed(twice)} in more than one place. "
            "Give several parents as pairs (child, parent)"
        )
    return {child: [] if parent is None else [parent] for child, parent in edges}


def _edges(group: Any, parent: Any) -> Iterator[tuple[Any, Any]]:
    """(child, parent) of everything in a nested group; the parent of the outermost is None."""
    if isinstance(group, Mapping):
        for name, inner in group.items():
            yield name, parent
            if not _is_group(inner):
                raise TypeError(
                    f"{_OP}: hierarchy mixes kinds: {name!r} has {inner!r:.80}, other names have groups. It must be {_KINDS}"
                )
            yield from _edges(inner, name)
    elif group is not None:
        for name in group:
            if _is_group(name):
                raise TypeError(f"{_OP}: the list of {parent!r} must hold names; got {checks.describe(name)}")
            yield name, parent


def _check_members(classes: list[Hashable], parents: Parents) -> None:
    missing = [name for name in classes if name not in parents]
    if not missing:
        return
    near = difflib.get_close_matches(str(missing[0]), [str(node) for node in parents], n=3)
    hint = f". Near {missing[0]!r} are {_listed(near)}" if near else ""
    raise ValueError(f"{_OP}: hierarchy must hold every class; it lacks {_listed(missing)}{hint}")


def _check_one_root(parents: Parents) -> None:
    roots = [node for node, above in parents.items() if not above]
    if len(roots) > 1:
        raise ValueError(
            f"{_OP}: hierarchy must have one root; got {len(roots)}: {_listed(roots)}. Put one node above all of them"
        )


def _upwards(parents: Parents) -> list[Hashable]:
    """All nodes, every child before its parents."""
    children = dict.fromkeys(parents, 0)
    for above in parents.values():
        for parent in above:
            children[parent] += 1
    order = [node for node, count in children.items() if count == 0]
    for node in order:  # grows while it is read
        for parent in parents[node]:
            children[parent] -= 1
            if children[parent] == 0:
                order.append(parent)
    if len(order) < len(parents):
        raise ValueError(f"{_OP}: hierarchy must have no cycle; got {_cycle(parents, set(order))}")
    return order


def _cycle(parents: Parents, clear: set[Hashable]) -> str:
    """One cycle among the nodes that are not `clear`, in words. Going up from such a node may leave them, but not forever."""
    above = {node: [parent for parent in parents[node] if parent not in clear] for node in parents if node not in clear}
    while leaving := [node for node in above if not above[node]]:
        above = {node: [p for p in rest if p not in leaving] for node, rest in above.items() if node not in leaving}
    path = [next(iter(above))]
    while path[-1] not in path[:-1]:
        path.append(above[path[-1]][0])
    return " -> ".join(map(repr, path[path.index(path[-1]) :]))


def _heights(classes: list[Hashable], parents: Parents, order: list[Hashable]) -> dict[Hashable, int]:
    """Edges of the longest path down to a class, of every node that is above one (or is one)."""
    heights = dict.fromkeys(classes, 0)
    for node in order:
        if node in heights:
            for parent in parents[node]:
                heights[parent] = max(heights.get(parent, 0), heights[node] + 1)
    return heights


def _below(classes: list[Hashable], parents: Parents, order: list[Hashable]) -> dict[Hashable, set[int]]:
    """Class ids at or below every node."""
    below: dict[Hashable, set[int]] = {node: set() for node in parents}
    for index, name in enumerate(classes):
        below[name].add(index)
    for node in order:
        for parent in parents[node]:
            below[parent] |= below[node]
    return below


def _repeated(names: list[Any]) -> list[Any]:
    seen: set[Any] = set()
    return list(dict.fromkeys(name for name in names if name in seen or seen.add(name)))  # type: ignore[func-returns-value]


def _listed(names: Iterable[Any]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
