#!/bin/sh
# Gets Fashion-MNIST from Debian's package dataset-fashion-mnist (31 MB), where it is not there yet.
# Where that does not work it says so in one line and succeeds: the demo then falls back to smaller data.
set -u

cd "$(dirname "$0")/.." || exit 1
. tools/debian_package.sh

fetch_package dataset-fashion-mnist Fashion-MNIST /usr/share/datasets/fashion-mnist .data/fashion-mnist \
    train-images-idx3-ubyte.gz "${ORTHOHASH_DATA:-}" ||
    echo "Fashion-MNIST could not be fetched (no Debian package here); the demo will use scikit-learn's digits"
