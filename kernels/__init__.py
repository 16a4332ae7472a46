"""Device code: Triton kernels with their launchers (`<op>.py`) and the CPU implementations (`cpu/<op>.py`).

Importing this package imports neither Triton nor Numba; each module brings what it needs.
"""
