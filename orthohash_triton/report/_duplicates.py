"""The page with the pictures of near-duplicates side by side."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..runs.duplicates import Duplicates, Group
from ._charts import data_uri
from ._page import Card, load_template
from ._wall import Tile

if TYPE_CHECKING:
    from jinja2 import Template

_SIDE = 160  # largest side of a picture, in pixels
_GROUPS, _MEMBERS = 200, 12  # groups on the page, and pictures of each


def load_duplicates_template() -> "Template":
    """Return the template of the page; see `load_template`."""
    return load_template("duplicates.html")


def render_duplicates(template: "Template", found: Duplicates) -> str:
    """Return the page as text: the largest groups first, and of each group its first members."""
    largest = sorted(found.groups, key=lambda group: -len(group.positions))[:_GROUPS]
    extra = sum(len(group.positions) - 1 for group in found.groups)
    cards = [
        Card("items", f"{len(found.items.codes):,}", f"codes of {8 * found.items.codes.shape[1]} bits"),
        Card("groups", f"{len(found.groups):,}", f"linked within {found.radius} bits"),
        Card("extra", f"{extra:,}", "all but the first of each group"),
    ]
    return template.render(
        name=found.items.name, radius=found.radius, cards=cards, notes=_notes(found, len(largest)),
        groups=[(len(group.positions), _tiles(found, group)) for group in largest], members=_MEMBERS,
        skipped=[(str(file.path), file.reason) for file in found.items.skipped],
    )  # fmt: skip


def _tiles(found: Duplicates, group: Group) -> Sequence[Tile]:
    return [
        Tile(_picture(found, position), found.items.name_of(position), "query" if rank == 0 else "", distance)
        for rank, (position, distance) in enumerate(zip(group.positions[:_MEMBERS], group.distances, strict=False))
    ]


def _picture(found: Duplicates, position: int) -> str:
    picture = found.items.pictures.thumbnail(position, _SIDE)
    return "" if picture is None else data_uri(picture.media_type, picture.bytes)


def _notes(found: Duplicates, shown: int) -> list[str]:
    notes = []
    if shown < len(found.groups):
        notes.append(f"This page shows the {shown} largest of {len(found.groups):,} groups.")
    if any(len(group.positions) > _MEMBERS for group in found.groups):
        notes.append(f"At most {_MEMBERS} items of a group are shown.")
    return notes
