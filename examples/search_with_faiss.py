"""Exchange index files with FAISS, and check that both return the same results.

Needs FAISS: pip install faiss-cpu
Run: python examples/search_with_faiss.py [--quick]
"""

import argparse
import tempfile
from pathlib import Path

import faiss
import numpy as np
import torch

import orthohash_triton as oht

BITS, K = 64, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 codes instead of 1,000,000")
    count = 1_000 if parser.parse_args().quick else 1_000_000
    generator = torch.Generator().manual_seed(0)
    gallery = oht.pack_codes(torch.randn(count, BITS, generator=generator))  # uint8 [N, 8]
    queries = oht.pack_codes(torch.randn(20, BITS, generator=generator))

    ours = oht.HammingIndex(BITS)
    ours.add(gallery)
    distances, ids = ours.search(queries, K)

    with tempfile.TemporaryDirectory() as folder:
        # FAISS reads the file; to_faiss() would convert in memory.
        ours.save(Path(folder) / "gallery.ibxf")
        theirs = faiss.read_index_binary(str(Path(folder) / "gallery.ibxf"))
        their_distances, their_ids = theirs.search(queries.numpy(), K)
        assert np.array_equal(distances.numpy(), their_distances)
        print(f"FAISS reads our file: {theirs.ntotal:,} codes, the same {K} distances for each query")
        print(f"the same ids, also in the order of equal distances: {np.array_equal(ids.numpy(), their_ids)}")

        # Read a file of FAISS with ids of its own.
        named = faiss.IndexBinaryIDMap2(faiss.IndexBinaryFlat(BITS))
        named.add_with_ids(gallery.numpy(), 1_000_000 + np.arange(count))
        faiss.write_index_binary(named, str(Path(folder) / "named.ibxf"))
        back = oht.HammingIndex.load(Path(folder) / "named.ibxf")
        assert torch.equal(back.search(queries, K)[1], 1_000_000 + ids)
        print(f"we read FAISS's file, with its ids: {back}")

    # numpy.packbits uses the opposite bit order; convert such codes before you add them to an index.
    signs = oht.unpack_codes(gallery, BITS).numpy() > 0
    assert torch.equal(torch.from_numpy(oht.from_packbits(np.packbits(signs, axis=1))), gallery)


if __name__ == "__main__":
    main()
