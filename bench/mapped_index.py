"""Compare searching a memory-mapped gallery with a gallery in memory and with FAISS's mapped index.

    python -m bench.mapped_index                      # 100,000,000 x 64 bits (0.8 GB), one query, two threads
    python -m bench.mapped_index --gallery 10000000 --queries 16

The file is written to a temporary folder (--folder) and is in the page cache when it is searched. Times are wall times.
Distances and ids of all searches must be equal before a time is printed.
"""

import argparse
import tempfile
from pathlib import Path

import faiss
import numpy as np
import torch

from bench._harness import RESULTS, append_csv, environment, percentiles, timings
from bench._limits import memory_seconds
from orthohash_triton import HammingIndex


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gallery", type=int, default=100_000_000)
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--queries", type=int, default=1)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--folder", help="folder for the file, which is deleted at the end; by default the system's temporary folder"
    )
    parser.add_argument("--no-csv", action="store_true", help="print only")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    generator = np.random.default_rng(0)
    gallery, queries = (
        generator.integers(0, 256, (count, options.bits // 8), dtype=np.uint8) for count in (options.gallery, options.queries)
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "gallery.ibxf"
        index = HammingIndex(options.bits)
        index.add(gallery)
        del gallery
        index.save(path)
        mapped = HammingIndex.load(path, mmap=True)
        theirs = faiss.read_index_binary(str(path), faiss.IO_FLAG_MMAP_IFC)
        searches = {
            "orthohash_triton, mapped": lambda: mapped.search(queries, options.k),
            "orthohash_triton, in memory": lambda: index.search(queries, options.k),
            "faiss, mapped": lambda: theirs.search(queries, options.k),
        }
        answers = [search() for search in searches.values()]
        if not all(np.array_equal(*pair) for answer in answers[1:] for pair in zip(answers[0], answer, strict=True)):
            raise SystemExit("the searches disagree: no times are reported")
        seconds = timings(searches, options.repeats)
    case = {"gallery": options.gallery, "bits": options.bits, "queries": options.queries, "k": options.k}
    read = {"read_once_ms": round(1e3 * memory_seconds(index.codes.numpy().reshape(-1).view(np.uint64)), 3)}
    rows = [{"peer": name, **case, **percentiles(values), **read} for name, values in seconds.items()]
    for row in rows:
        print(f"{row['peer']:<28} {row['ms_50']:>9.2f} ms [{row['ms_20']:.2f} .. {row['ms_80']:.2f}]   memory read once {read}")
    if not options.no_csv:
        append_csv(RESULTS / "mapped_index.csv", [row | environment() for row in rows])


if __name__ == "__main__":
    main()
