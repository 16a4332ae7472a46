"""Self-test of the installation: versions, devices, the implementation of each op on each device, and whether it is correct."""

from ._examination import examine
from ._report import as_markdown

__all__ = ["as_markdown", "examine"]
