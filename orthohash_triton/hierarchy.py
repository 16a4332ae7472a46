"""Distances between classes in a class hierarchy."""

import difflib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ._base import checks
from ._base.quoting import quoted, short_repr

_OP = "class_distance"
_KINDS = "a nested dict (leaves by name), a dict child -> parent, or a list of pairs (child, parent)"
_SHOWN = 5  # names listed in a message

Hierarchy = Mapping[Any, Any] | Iterable[tuple[Hashable, Hashable]]
Parents = dict[Hashable, list[Hashable]]  # the parents of every node; an empty list for a root


def class_distance(hierarchy: Hierarchy, classes: Sequence[Hashable]) -> Tensor:
    """Return the distances between classes of a hierarchy, d(u, v) = height(lcs(u, v)) / height(root), in [0, 1].

    This is the dissimilarity of Barz and Denzler (Hierarchy-based Image Embeddings for Semantic Image Retrieval, WACV 2019), from
    Deng et al. (CVPR 2011). It is an ultrametric on a tree. Only the classes and the nodes above them count, so that branches
    without a class have no effect:

    - height(x) is the number of edges of the longest path from x down to a class;
    - lcs(u, v), the lowest common subsumer, is the node of the smallest height that is above both classes, or that is one of them
      and above the other. There can be several, because a node may have several parents;
    - root is the node of the smallest height that is above all classes. Therefore the two farthest classes of a tree have the
      distance 1.

    The released code of Barz and Denzler differs if the hierarchy is not a tree or the classes are not all of its leaves: it uses
    the deepest common subsumer, and heights in the whole hierarchy. To use heights in the whole hierarchy, pass all its leaves as
    classes and select rows and columns of the result.

    Args:
        hierarchy: one of three forms.
            A nested dict, whose keys are groups and whose values are such dicts or lists of leaves; None or an empty dict makes
            the key a leaf: `{"clothing": {"tops": ["shirt", "pullover"], "trousers": None}}`.
            A dict from child to parent: `{"shirt": "tops", "tops": "clothing"}`.
            Pairs (child, parent), where a child may have several parents. Names are strings or other hashable values.
        classes: C names of nodes, in the order of the class ids.

    Returns:
        float32 [C, C] on the CPU, symmetric, with a zero diagonal.

    Raises:
        TypeError: the hierarchy has none of these forms.
        ValueError: a class is not in the hierarchy or is named twice, a name occurs twice in a nested dict, there is a cycle or
            more than one root, or there are no classes. The message contains the names.

    Example:
        >>> import orthohash_triton as oht
        >>> hierarchy = {"clothing": {"tops": ["shirt", "pullover"], "trousers": None}}
        >>> oht.class_distance(hierarchy, ["shirt", "pullover", "trousers"])
        tensor([[0.0000, 0.5000, 1.0000],
                [0.5000, 0.0000, 1.0000],
                [1.0000, 1.0000, 0.0000]])
    """
    classes = _check_classes(classes)
    parents = _parents(hierarchy)
    _check_members(classes, parents)
    _check_one_root(parents)
    order = _upwards(parents)
    heights, below = _heights(classes, parents, order), _below(classes, parents, order)
    spanned = sorted((node for node in order if below[node]), key=lambda node: heights[node], reverse=True)
    distance = torch.zeros(len(classes), len(classes), dtype=torch.float32, device="cpu")
    for node in spanned:  # from the root down, so that lower subsumers overwrite higher ones
        members = torch.tensor(sorted(below[node]), device="cpu")
        distance[members[:, None], members] = float(heights[node])
    root = min((node for node in spanned if len(below[node]) == len(classes)), key=lambda node: heights[node])
    distance.fill_diagonal_(0)
    return distance / max(1, heights[root])


def _check_classes(classes: Any) -> list[Hashable]:
    """Return the class names as a list after checking that they differ."""
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise TypeError(f"{_OP}: classes must be a sequence of names; got {checks.describe(classes)}")
    names = list(classes)
    if not names:
        raise ValueError(f"{_OP}: classes must name at least one class; got none")
    if twice := _repeated(names):
        raise ValueError(f"{_OP}: classes must be different; got {_listed(twice)} more than once")
    return names


def _parents(hierarchy: Any) -> Parents:
    """Return the parents of every node, for every form of hierarchy."""
    if isinstance(hierarchy, Mapping):
        return _from_pairs(hierarchy.items()) if _is_parent_table(hierarchy) else _from_nested(hierarchy)
    if isinstance(hierarchy, str) or not isinstance(hierarchy, Iterable):
        raise TypeError(f"{_OP}: hierarchy must be {_KINDS}; got {checks.describe(hierarchy)}")
    pairs = list(hierarchy)
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"{_OP}: hierarchy must be {_KINDS}; got a list with {short_repr(pair)}, which is not a pair")
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
    """Yield (child, parent) for every node in a nested group. The parent of the outermost nodes is None."""
    if isinstance(group, Mapping):
        for name, inner in group.items():
            yield name, parent
            if not _is_group(inner):
                raise TypeError(
                    f"{_OP}: hierarchy mixes two forms: {quoted(name)} has {short_repr(inner)}, other names have groups. "
                    f"It must be {_KINDS}"
                )
            yield from _edges(inner, name)
    elif group is not None:
        for name in group:
            if _is_group(name):
                raise TypeError(f"{_OP}: the list of {quoted(parent)} must hold names; got {checks.describe(name)}")
            yield name, parent


def _check_members(classes: list[Hashable], parents: Parents) -> None:
    missing = [name for name in classes if name not in parents]
    if not missing:
        return
    near = difflib.get_close_matches(str(missing[0]), [str(node) for node in parents], n=3)
    hint = f". Names similar to {quoted(missing[0])} are {_listed(near)}" if near else ""
    raise ValueError(f"{_OP}: hierarchy must hold every class; it lacks {_listed(missing)}{hint}")


def _check_one_root(parents: Parents) -> None:
    roots = [node for node, above in parents.items() if not above]
    if len(roots) > 1:
        raise ValueError(
            f"{_OP}: hierarchy must have one root; got {len(roots)}: {_listed(roots)}. Add one node above all of them"
        )


def _upwards(parents: Parents) -> list[Hashable]:
    """Return all nodes, every child before its parents."""
    children = dict.fromkeys(parents, 0)
    for above in parents.values():
        for parent in above:
            children[parent] += 1
    order = [node for node, count in children.items() if count == 0]
    for node in order:  # the loop appends to `order`
        for parent in parents[node]:
            children[parent] -= 1
            if children[parent] == 0:
                order.append(parent)
    if len(order) < len(parents):
        raise ValueError(f"{_OP}: hierarchy must have no cycle; got {_cycle(parents, set(order))}")
    return order


def _cycle(parents: Parents, clear: set[Hashable]) -> str:
    """Return one cycle among the nodes that are not in `clear`, as text."""
    above = {node: [parent for parent in parents[node] if parent not in clear] for node in parents if node not in clear}
    while leaving := [node for node in above if not above[node]]:  # nodes that only lead out of the cycles
        above = {node: [p for p in rest if p not in leaving] for node, rest in above.items() if node not in leaving}
    path = [next(iter(above))]
    while path[-1] not in path[:-1]:
        path.append(above[path[-1]][0])
    return " -> ".join(map(quoted, path[path.index(path[-1]) :]))


def _heights(classes: list[Hashable], parents: Parents, order: list[Hashable]) -> dict[Hashable, int]:
    """Return the length of the longest path down to a class, for every node that is a class or above one."""
    heights = dict.fromkeys(classes, 0)
    for node in order:
        if node in heights:
            for parent in parents[node]:
                heights[parent] = max(heights.get(parent, 0), heights[node] + 1)
    return heights


def _below(classes: list[Hashable], parents: Parents, order: list[Hashable]) -> dict[Hashable, set[int]]:
    """Return the ids of the classes at or below every node."""
    below: dict[Hashable, set[int]] = {node: set() for node in parents}
    for index, name in enumerate(classes):
        below[name].add(index)
    for node in order:
        for parent in parents[node]:
            below[parent] |= below[node]
    return below


def _repeated(names: list[Any]) -> list[Any]:
    """Return the names that occur more than once."""
    seen: set[Any] = set()
    return list(dict.fromkeys(name for name in names if name in seen or seen.add(name)))  # type: ignore[func-returns-value]


def _listed(names: Iterable[Any]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(quoted, names[:_SHOWN])) + more
