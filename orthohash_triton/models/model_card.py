"""The model card: the README.md of a pretrained folder, for people and for model hubs."""

from collections.abc import Mapping
from typing import Any

MARK = "library_name: orthohash-triton"
"""A line that every card of this package contains. A README.md without it was written by somebody else."""


def model_card(description: Mapping[str, Any], figures: Mapping[str, Any], trained_on: str | None) -> str:
    """Return the text of a model card: input and output of the model, how to load it, and what was measured.

    Args:
        description: the contents of config.json, see `pretrained_files`.
        figures: retrieval figures by their title; floats are shown with four decimals.
        trained_on: name of the training set.
    """
    shape = description["sample_shape"]
    takes = f"Features float32 `[N, {shape[0]}]`"
    if len(shape) == 3:
        takes = f"Images uint8 `[N, {', '.join(map(str, shape[1:] if shape[0] == 1 else shape))}]`"
    built_in = description["backbone"] is not None
    backbone = description["backbone"] if built_in else f"{description['backbone_type']}, which is not part of orthohash-triton"
    lines = [
        "---",
        MARK,
        "tags: [learning-to-hash, image-retrieval, binary-codes]",
        "---",
        "",
        f"# Binary codes of {description['bits']} bits",
        "",
        f"{takes} become codes uint8 `[N, {-(-description['bits'] // 8)}]`. Bit j of byte i is dimension 8i + j.",
        f"Backbone: {backbone}.",
        *([f"Trained on: {trained_on}."] if trained_on else []),
        *([f"Classes: {', '.join(description['class_names'])}."] if description["class_names"] else []),
        "",
        "```python",
        "from orthohash_triton.models import HashModel",
        "",
        f'model = HashModel.from_pretrained("."{"" if built_in else ", backbone=your_backbone"})',
        "codes = model.encode(inputs)",
        "```",
        "",
    ]
    if figures:
        lines += ["| figure | value |", "| --- | ---: |"]
        lines += [f"| {name} | {format(value, '.4f' if isinstance(value, float) else '')} |" for name, value in figures.items()]
        lines += [""]
    return "\n".join([*lines, f"Written by orthohash-triton {description['orthohash_triton']}.", ""])
