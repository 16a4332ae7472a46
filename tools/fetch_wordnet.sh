#!/bin/sh
# Gets WordNet from Debian's package wordnet-base (7 MB), where it is not there yet.
# Where that does not work it says so in one line and succeeds: only wordnet_distance and wordnet-nouns need these files.
set -u

cd "$(dirname "$0")/.." || exit 1
. tools/debian_package.sh

fetch_package wordnet-base WordNet /usr/share/wordnet .data/wordnet data.noun "${ORTHOHASH_WORDNET:-}" ||
    echo "WordNet could not be fetched (no Debian package here); set ORTHOHASH_WORDNET to a folder that holds it"
