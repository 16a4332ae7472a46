"""Search a part of the gallery: by attribute, by id, or within a distance.

Run: python examples/retrieval_with_filters.py [--quick]
"""

import argparse

import torch

import orthohash_triton as oht

BITS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 articles instead of 1,000,000")
    count = 1_000 if parser.parse_args().quick else 1_000_000
    generator = torch.Generator().manual_seed(0)
    codes = oht.pack_codes(torch.randn(count, BITS, generator=generator))  # uint8 [N, 8], as from `model.encode(images)`
    articles = 7_000_000 + torch.randperm(count, generator=generator)  # the article numbers of a shop
    price = torch.rand(count, generator=generator) * 100
    query = codes[:1]

    index = oht.HammingIndex(BITS)
    index.add_with_ids(codes, articles)
    assert index.search(query, 1)[1].item() == articles[0]  # the query finds itself

    cheap = price < 20  # bool [N], one entry per position
    distances, found = index.search(query, 5, mask=cheap)
    price_of = dict(zip(articles.tolist(), price.tolist(), strict=True))
    print("below 20:", {number: round(price_of[number], 2) for number in found[0].tolist()})
    assert all(price_of[number] < 20 for number in found[0].tolist())

    _, others = index.search(query, 5, mask=cheap, exclude_ids=found[0])
    print("the next five:", others[0].tolist())
    assert not set(others[0].tolist()) & set(found[0].tolist())

    lims, distances, near = index.range_search(query, 20, mask=cheap)  # all codes nearer than 20 bits
    print(f"{lims[-1].item()} cheap articles within 20 bits, the nearest at {distances.min().item() if len(near) else '-'}")

    index.remove_ids(found[0])
    print(f"after selling five: {index.ntotal:,} articles")


if __name__ == "__main__":
    main()
