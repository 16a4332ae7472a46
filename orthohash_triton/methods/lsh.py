"""LSH: the signs of random projections of the centred features, without training."""

from ..projections import fit_lsh
from ._method import Method

METHOD = Method(
    name="lsh",
    title="LSH",
    paper="Charikar, Similarity Estimation Techniques from Rounding Algorithms, STOC 2002",
    url="https://doi.org/10.1145/509907.509965",
    year=2002,
    summary="signs of random projections of the centred features",
    fit=lambda features, bits, seed: fit_lsh(features, bits, seed=seed),
)
