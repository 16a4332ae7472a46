"""Make a pretrained folder of a run: the model, its codebook, class names and figures, without the gallery."""

import json
from pathlib import Path
from typing import Any

from ..models.pretrained import save_pretrained
from .run import Run


def export_run(run: Run, folder: str | Path) -> None:
    """Write the model of a run folder (`load_run`), its codebook, class names and figures to `folder`, without its gallery."""
    named = None if run.config.backbone == "auto" or _is_custom(run) else run.config.backbone
    save_pretrained(
        run.model, folder, codebook=run.codebook, class_names=run.class_names, backbone=named,
        figures=_figures_of(run), trained_on=Path(run.config.dataset).name,
    )  # fmt: skip


_FIGURES = {
    "map_at_1000": "mAP@1000",
    "map_at_all": "mAP@all",
    "precision_at_radius_2": "precision, radius 2",
    "queries": "queries",
    "gallery": "gallery",
}


def _figures_of(run: Run) -> dict[str, Any]:
    """What of a run's evaluation belongs on the model card."""
    found = run.metrics.get("evaluation") or {}
    return {title: found[name] for name, title in _FIGURES.items() if name in found}


def _is_custom(run: Run) -> bool:
    return bool(json.loads((run.path / "config.json").read_text(encoding="utf-8"))["custom_backbone"])
