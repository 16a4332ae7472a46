"""Limits of PyTorch's threads in forked processes, in which the threads of the parent do not exist.

The threads of PyTorch wait for one another in a library (OpenMP) that does not notice a fork. In a forked process, the first
operation of PyTorch that is large enough for several threads would therefore never end if the parent has used them. The threads
of this package (`cpu/_threads.py`) are started anew.
"""

import os

import torch

_is_new = False  # whether this process was forked and has not called `limit_torch_after_fork` since
_inherited = 1  # threads of PyTorch in the parent, from which those of this package are counted after PyTorch is limited to one


def limit_torch_after_fork() -> None:
    """Let PyTorch compute in the calling thread if this process was forked, as the workers of a DataLoader do.

    Functions of this package that compute on the CPU call it first. Only the first call in a process has an effect, so that a
    user can set another number of threads afterwards. torch.compile cannot trace the change, so a traced call makes none.
    """
    global _is_new, _inherited
    if not torch.compiler.is_compiling() and _is_new:
        _is_new = False
        _inherited = torch.get_num_threads()
        torch.set_num_threads(1)


def thread_count() -> int:
    """Return how many threads this package uses: those of PyTorch, in a forked process those of its parent."""
    threads = torch.get_num_threads()
    return threads if threads > 1 else _inherited


def _note_fork() -> None:
    global _is_new
    _is_new = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
