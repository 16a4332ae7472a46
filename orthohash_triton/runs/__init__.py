"""The run folder that a training writes, and operations on it: evaluation, baselines, encoding into code files."""

from .encoding import Encoded, encode_to
from .run import Run, load_run, save_run

__all__ = ["Encoded", "Run", "encode_to", "load_run", "save_run"]
