#!/bin/sh
# Makes the data sets debian-packages and wordnet-nouns and writes them into the cache, so that they can be loaded offline.
# The first needs Debian (apt-cache, debtags), the second WordNet (tools/fetch_wordnet.sh), and both need the optional
# dependencies `text`: pip install ".[text]". Prints one line about anything that is missing, and then fails.
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
    print(data.get(sys.argv[1]).samples[""]().name)
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
