"""The state of an index in a pickle."""

from pathlib import Path
from typing import Any

import torch

from .._base.arrays import as_tensor
from . import _saving, _side_file, faiss_io
from ._building import learn_from_codes
from ._cell import Cell
from ._external_ids import ExternalIds
from ._gallery import Gallery
from ._planner import Planner


def state_of(cell: Cell) -> dict[str, Any]:
    """Return the state of an index as plain values and arrays; of a mapped file its path."""
    gallery, planner = cell.gallery, cell.planner
    state = {
        "device": str(gallery.device),
        "storage": gallery.placement,
        "plan": planner.mode,
        "centres": None if planner.centres is None else planner.centres.numpy(),
    }
    if gallery.file is not None:
        return state | {"path": gallery.file.path, "version": gallery.file.version}
    # The state has arrays, because a new process would get handles of tensors whose memory may be freed before it reads them.
    codes, ids = gallery.exported()
    return state | {"codes": codes, "ids": ids}


def cell_from(state: dict[str, Any]) -> Cell:
    """Return the cell of an index whose state was pickled, on the device where it was."""
    try:
        torch.empty(0, device=state["device"])
    except (AssertionError, RuntimeError) as error:
        raise RuntimeError(
            f"the pickled HammingIndex searches on {state['device']}, which this machine does not have "
            f"({str(error).splitlines()[0]}). Move it with .to('cpu') before it is pickled, or use save and "
            "load(path, device=...)"
        ) from error
    if "path" in state:
        file = faiss_io.MappedFile(state["path"])
        if file.version != state["version"]:
            raise ValueError(f"{file.source} is not the one that the pickled HammingIndex was mapped from. Pickle it again")
        gallery = Gallery.mapped(file, state["device"])
        gallery = _saving.with_structures(gallery, Path(file.path), _side_file.side_of(file.path), mmap=True)
    else:
        ids = None if state["ids"] is None else ExternalIds.of(as_tensor(state["ids"]))
        gallery = Gallery.empty(state["bits"], state["device"], state["storage"]).filled(state["codes"], ids)
    planner = Planner(state["plan"])
    planner.centres = None if state["centres"] is None else as_tensor(state["centres"])
    cell = Cell(gallery, planner)
    learn_from_codes(cell)
    return cell
