"""Conversion of a run folder into a pretrained folder."""

from pathlib import Path
from typing import Any

from ..models.pretrained import save_pretrained
from .run import Run, has_own_backbone


def export_run(run: Run, folder: str | Path) -> None:
    """Write the model of `run`, its codebook, class names and figures to the pretrained folder `folder`, without the gallery.

    Example:
        >>> import torch
        >>> from orthohash_triton.data import Dataset
        >>> from orthohash_triton.models import HashModel
        >>> from orthohash_triton.runs import save_run
        >>> from orthohash_triton.runs.export import export_run
        >>> from orthohash_triton.train import TrainConfig, train
        >>> labels = torch.arange(60) % 2
        >>> data = Dataset(torch.randn(60, 8) + 4 * labels[:, None], labels, ("cat", "dog"), "toy")
        >>> config = TrainConfig(bits=16, epochs=1, batch_size=20, threads=1)
        >>> export_run(save_run("run", config, train(config, data, progress=False), data), "model")
        >>> HashModel.from_pretrained("model").bits
        16
    """
    named = None if run.config.backbone == "auto" or has_own_backbone(run) else run.config.backbone
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
    """Return the figures of the evaluation for the model card, by their titles."""
    found = run.metrics.get("evaluation") or {}
    return {title: found[name] for name, title in _FIGURES.items() if name in found}
