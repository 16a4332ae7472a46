#!/bin/sh
# Gets WordNet from Debian's package wordnet-base, where it is not there yet:
# as root (or with sudo that asks no password) by apt-get install, otherwise unpacked into ./.data/wordnet.
# Where neither works it says so in one line and succeeds: only wordnet_distance needs these files.
set -u

package=wordnet-base
installed=/usr/share/wordnet
unpacked=.data/wordnet
file=data.noun

cd "$(dirname "$0")/.." || exit 1

have() {
    [ -f "$installed/$file" ] || [ -f "$unpacked/$file" ] || [ -f "${ORTHOHASH_WORDNET:-}/$file" ]
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

may_install() {
    [ "$(id -u)" = 0 ] || { command -v sudo && sudo -n true; }
} >/dev/null 2>&1

install_package() {
    as_root apt-get install -y -qq "$package" && return
    as_root apt-get update -qq && as_root apt-get install -y -qq "$package"
} >/dev/null 2>&1 </dev/null

unpack_package() {
    target=$PWD/$unpacked
    work=$(mktemp -d) || return 1
    (cd "$work" && apt-get download -qq "$package" && dpkg -x "$package"_*.deb tree &&
        mkdir -p "$target" && cp "tree$installed"/*.noun "$target/")
    status=$?
    rm -rf "$work"
    return $status
} >/dev/null 2>&1 </dev/null

have && exit 0
if command -v apt-get >/dev/null 2>&1; then
    echo "fetching WordNet (Debian package $package, 7 MB)"
    { may_install && install_package && have; } || { unpack_package && have; } && exit 0
fi
echo "WordNet could not be fetched (no Debian package $package here); set ORTHOHASH_WORDNET to a folder that holds it"
