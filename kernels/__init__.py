"""Triton kernels with their launchers (`<op>.py`), and CPU implementations with the same signatures (`cpu/<op>.py`).

Importing this package imports neither Triton nor Numba; each module imports what it needs.

Glossary. Kernels, launchers and their documentation use these words for the parts of the work:

- program: one instance of a kernel; `tl.program_id` numbers them. AMD and NVIDIA call it a workgroup or thread block.
- block: the rows or queries that a program keeps for its whole run, BLOCK_M of them.
- tile: the data that a program reads in one iteration of its loop, BLOCK_N rows of the gallery, the codebook or the other batch.
- split: a share of the gallery, the codebook or the other batch with programs of its own. The results of all splits of a
  query are combined afterwards, always in the same order.
- slice: a part of the dimensions (bits) of a row, BLOCK_K wide, where a whole row does not fit the registers.
- chunk: a part of the rows or columns whose intermediate results are in memory at one time.
- span: a run of consecutive codes that the nearest code among them represents while a search narrows down.
- group: the GROUP consecutive codes that one thread reads with whole 128-bit loads.
- batch: in the kernels that count, the BATCH codes that one thread reads and counts at a time; in the launchers, queries that are
  answered by the same launches.
- segment: a run of consecutive codes that one thread reads alone, batch after batch.
- word: 32 bits of a packed code; WORDS (W) of them make a code.
- lane: a thread of a warp; on AMD GPUs a warp is a wavefront.

Letters in shapes: Q queries, N gallery rows, B bytes of a packed code, W words of a code, K bits or dimensions, C classes,
k nearest codes.
"""
