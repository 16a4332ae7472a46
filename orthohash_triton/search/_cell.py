"""The cell that holds the current gallery of an index, and what the index knows beside it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from .._base.locks import ForkSafeLock
from ..kernels.forks import limit_torch_after_fork
from . import _plan
from ._gallery import Gallery
from ._planner import Planner
from ._structures import Structures


class Cell:
    """The current gallery of an index.

    A reader takes `gallery` once and works on that snapshot. A writer makes another gallery and puts it in place with one
    assignment. Writers take turns.
    """

    def __init__(self, gallery: Gallery, planner: Planner | None = None) -> None:
        self._gallery = gallery
        self._writers = ForkSafeLock()
        self.planner = planner or Planner()

    @property
    def gallery(self) -> Gallery:
        """The gallery at this moment."""
        limit_torch_after_fork()
        return self._gallery

    def change(self, make: Callable[[Gallery], Gallery]) -> tuple[Gallery, Gallery]:
        """Replace the gallery by the result of `make(gallery)`; return the old and the new gallery."""
        limit_torch_after_fork()
        with self._writers:
            before = self._gallery
            after = self._refiled(make(before))
            self._gallery = after
            self.planner.history.forget(before=before.count, after=after.count)
            return before, after

    def attach(self, built_from: Gallery, structures: Structures) -> None:
        """Add the structures of the gallery `built_from`, if the index still holds its codes at the same positions."""
        with self._writers:
            if self._gallery.continues(built_from):
                self._gallery = replace(self._gallery, structures=structures)

    def drop(self, structures: Structures) -> bool:
        """Remove structures that cannot be used any more; return whether the index still had them."""
        with self._writers:
            has_them = self._gallery.structures is structures
            if has_them:
                self._gallery = replace(self._gallery, structures=None)
            return has_them

    def _refiled(self, gallery: Gallery) -> Gallery:
        """Return `gallery` with its tail filed, if the tail has grown and the structures have saved what filing costs.

        Each filing is paid by searches before it, so that many additions without searches cost what they cost without structures.
        """
        structures, history = gallery.structures, self.planner.history
        if structures is None or gallery.count - structures.count < _plan.REFILED_SHARE * structures.count:
            return gallery
        entries = structures.sizes.entries * gallery.count / structures.count
        if history.saved < _plan.filing_cost(gallery.count, entries):
            return gallery
        history.saved = 0.0
        with suppress(MemoryError):  # the old structures are right, too
            return gallery.built("HammingIndex.add", self.planner.centres, structures.radius)
        return gallery

    @contextmanager
    def changing_with(self, other: "Cell") -> Iterator[None]:
        """Hold the locks of this cell and of `other`, in the same order in all threads, so that two threads cannot deadlock."""
        first, second = sorted((self, other), key=id)
        with first._writers, second._writers:
            yield
