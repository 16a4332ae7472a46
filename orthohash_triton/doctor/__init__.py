"""A check-up to paste into an issue: versions, devices, which implementation each op takes there, and whether it is right."""

from ._examination import examine
from ._report import as_markdown

__all__ = ["as_markdown", "examine"]
