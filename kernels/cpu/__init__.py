"""CPU implementations of the ops: Numba for packed codes, and blocks of BLAS products or Numba for losses."""
