"""The same operations, fast on a CPU: Numba for bits, blocked BLAS for losses."""
