"""Search of the gallery of a run by a gallery item or by an image of the user."""

import threading
import time
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .. import methods
from .._base.file_names import printable
from ..runs.run import Run
from ..runs.samples import Encoded, RunSamples, Samples, relevant

MAX_K = 200
_SIDE = 160  # largest side of an image, in pixels
_CACHED_PICTURES = 4096


class Engine:
    """The gallery of a run, for concurrent use by several threads.

    Attributes:
        takes_images: whether the model encodes images, so that users can upload one.
        largest_k: largest number of neighbours of one search.
        description: title, size and classes of the gallery, for the page.
        picture: return the image of a gallery item, or None; results are cached.
    """

    def __init__(self, run: Run, samples: RunSamples) -> None:
        self._run = run
        self._gallery: Samples = samples.gallery
        self._labelled = samples.gallery.is_labelled
        self._lock = threading.Lock()  # searches share one thread pool, which not every threading layer of Numba permits
        self.takes_images = len(run.model.sample_shape) == 3
        self.largest_k = min(MAX_K, len(samples.gallery))
        self.description = self._describe()
        self.picture = lru_cache(maxsize=_CACHED_PICTURES)(self._picture)
        self._warm_up()

    def __len__(self) -> int:
        return len(self._gallery)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Return the shape that the model accepts: (channels, height, width) of images, or (D,) of features."""
        return self._run.model.sample_shape

    def _warm_up(self) -> None:
        """Compile and load everything before the first request."""
        self.search_id(0, k=1, class_id=None)
        if self.takes_images:
            channels, *sides = self.sample_shape
            self.search_image(torch.zeros((1, *sides) if channels == 1 else (1, channels, *sides), dtype=torch.uint8), 1, None)

    def _describe(self) -> dict[str, Any]:
        """Return the description of the gallery that the page shows."""
        run, gallery = self._run, self._gallery
        config = run.config
        rotation = "" if config.rotate == "none" else f" + {config.rotate}"
        names = map(printable, gallery.class_names if self._labelled else ())
        return {
            "title": f"{methods.get(config.method).title}{rotation}, {config.bits} bits", "dataset": printable(config.dataset),
            "bits": config.bits, "gallery": len(gallery), "max_k": self.largest_k,
            "classes": [{"id": i, "name": name, "count": int(gallery.members(i).sum())} for i, name in enumerate(names)],
            "pictures": bool(gallery.pictures),
            "takes_images": self.takes_images,
        }  # fmt: skip

    def item(self, position: int) -> dict[str, Any]:
        """Return id, classes and file of a gallery item."""
        classes = self._gallery.classes(position) if self._labelled else []
        file = self._gallery.file_name(position)
        return {"id": position, "classes": list(map(printable, classes)), "file": None if file is None else printable(file)}

    def random(self, count: int, class_id: int | None) -> list[dict[str, Any]]:
        """Return `count` random gallery items, or all if there are fewer; only items of `class_id` unless that is None."""
        chosen = torch.arange(len(self)) if class_id is None else self._gallery.members(class_id).nonzero().flatten()
        return [self.item(i) for i in chosen[torch.randperm(len(chosen))[:count]].tolist()]

    def search_id(self, position: int, k: int, class_id: int | None) -> dict[str, Any]:
        """Return the `k` nearest gallery items of a gallery item, which is not among them; only those of `class_id` if given."""
        found = self._search(self._gallery.codes[position : position + 1], k, class_id, without=position)
        if self._labelled:
            ids = [neighbour["id"] for neighbour in found["neighbours"]]
            same = relevant(self._gallery.labels[position], self._gallery.labels[ids]).tolist()
            for neighbour, right in zip(found["neighbours"], same, strict=True):
                neighbour["same_class"] = right
        return {"query": self.item(position), **found}

    def search_image(self, inputs: Tensor, k: int, class_id: int | None) -> dict[str, Any]:
        """Return the `k` nearest gallery items of an image, uint8 [1, H, W] or [1, 3, H, W]; only of `class_id` if given."""
        started = time.perf_counter()
        with self._lock:
            code = self._run.model.encode(inputs)
        encoding = _milliseconds(started)
        found = self._search(code, k, class_id, without=None)
        return {"query": None, **found, "milliseconds": {"encode": encoding, **found["milliseconds"]}}

    def _search(self, code: Tensor, k: int, class_id: int | None, without: int | None) -> dict[str, Any]:
        """Return the nearest gallery items of a code, and the milliseconds of the search."""
        mask = None if class_id is None else self._gallery.members(class_id)
        index = self._run.index
        with self._lock:
            started = time.perf_counter()
            distances, ids = index.search(
                code.to(index.device), k, None if mask is None else mask.to(index.device),
                exclude_ids=None if without is None else [without],
            )  # fmt: skip
            took = _milliseconds(started)
        pairs = zip(distances[0].tolist(), ids[0].tolist(), strict=True)
        return {
            "neighbours": [{**self.item(i), "distance": distance} for distance, i in pairs if i != -1],
            "milliseconds": {"search": took},
        }

    def _picture(self, position: int) -> Encoded | None:
        return self._gallery.pictures.thumbnail(position, _SIDE)


def _milliseconds(started: float) -> float:
    return round(1000 * (time.perf_counter() - started), 3)
