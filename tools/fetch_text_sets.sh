#!/bin/sh
# Makes the text data sets debian-packages and wordnet-nouns and leaves them in the cache, so that they work offline afterwards.
# Needs Debian (apt-cache, debtags) for the first, WordNet (tools/fetch_wordnet.sh) for the second, and for both the optional
# dependencies `text`: pip install "orthohash-triton[text]". Says in one line what is missing; succeeds when both are there.
set -u

cd "$(dirname "$0")/.." || exit 1
. tools/debian_package.sh

python=python3
[ -x .venv/bin/python ] && python=.venv/bin/python

has_debtags() {
    apt-cache dumpavail 2>/dev/null | grep -q '^Tag: .*::'
}

make_set() {
    "$python" - "$1" <<'END'
import sys
from orthohash_triton import data
try:
    print({"debian-packages": data.debian, "wordnet-nouns": data.wordnet_nouns}[sys.argv[1]].load().name)
except (ImportError, OSError, ValueError) as error:
    sys.exit(f"{sys.argv[1]}: {error}")
END
}

if command -v apt-get >/dev/null 2>&1; then
    has_debtags || as_root apt-get update -qq >/dev/null 2>&1 </dev/null
fi
sh tools/fetch_wordnet.sh

status=0
make_set debian-packages || status=1
make_set wordnet-nouns || status=1
exit $status
