"""PCA hashing: the signs of the principal components. With `--rotate itq` it is ITQ (Gong and Lazebnik, CVPR 2011)."""

from ..projections import fit_pca
from ._method import Method

METHOD = Method(
    name="pca",
    title="PCA",
    paper="Wang, Kumar and Chang, Semi-Supervised Hashing for Scalable Image Retrieval, CVPR 2010 (PCA hashing)",
    url="https://doi.org/10.1109/CVPR.2010.5539994",
    year=2010,
    summary="signs of the principal components of the features",
    fit=lambda features, bits, seed: fit_pca(features, bits),
)
