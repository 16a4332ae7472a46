#!/bin/sh
# Fetches Fashion-MNIST from the Debian package dataset-fashion-mnist (31 MB), unless it is installed already.
# If that fails, prints one line and succeeds, because the demo then uses a smaller data set.
set -u

cd "$(dirname "$0")/.." || exit 1
. tools/debian_package.sh

fetch_package dataset-fashion-mnist Fashion-MNIST /usr/share/datasets/fashion-mnist .data/fashion-mnist \
    train-images-idx3-ubyte.gz "${ORTHOHASH_DATA:-}" ||
    echo "Fashion-MNIST could not be fetched (no Debian package here); the demo will use scikit-learn's digits"
