#!/bin/sh
# Fetches WordNet from the Debian package wordnet-base (7 MB), unless it is installed already.
# If that fails, prints one line and succeeds, because only wordnet_distance and the data set wordnet-nouns need these files.
set -u

cd "$(dirname "$0")/.." || exit 1
. tools/debian_package.sh

fetch_package wordnet-base WordNet /usr/share/wordnet .data/wordnet data.noun "${ORTHOHASH_WORDNET:-}" ||
    echo "WordNet could not be fetched (no Debian package here); set ORTHOHASH_WORDNET to a folder that holds it"
