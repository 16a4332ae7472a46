# Functions for the fetch scripts, which source this file: they install or unpack a Debian package that holds data.
#
# fetch_package PACKAGE TITLE INSTALLED UNPACKED FILE NAMED
#   Runs apt-get install as root, or with sudo if that needs no password. If that fails, unpacks the package into the folder
#   UNPACKED of the repository. Does nothing if FILE exists in INSTALLED (the folder of the package), UNPACKED or NAMED (a folder
#   that the user has named, or ""). Fails if neither way works.

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

may_install() {
    [ "$(id -u)" = 0 ] || { command -v sudo && sudo -n true; }
} >/dev/null 2>&1

install_package() {
    as_root apt-get install -y -qq "$1" && return
    as_root apt-get update -qq && as_root apt-get install -y -qq "$1"
} >/dev/null 2>&1 </dev/null

# unpack_package PACKAGE INSTALLED UNPACKED
unpack_package() {
    target=$PWD/$3
    work=$(mktemp -d) || return 1
    (cd "$work" && apt-get download -qq "$1" && dpkg -x "$1"_*.deb tree &&
        mkdir -p "$target" && find "tree$2" -maxdepth 1 -type f -exec cp {} "$target/" \;)
    status=$?
    rm -rf "$work"
    return $status
} >/dev/null 2>&1 </dev/null

fetch_package() {
    package=$1 title=$2 installed=$3 unpacked=$4 file=$5 named=$6
    have() {
        [ -f "$installed/$file" ] || [ -f "$unpacked/$file" ] || [ -f "$named/$file" ]
    }
    have && return
    command -v apt-get >/dev/null 2>&1 || return
    echo "fetching $title (Debian package $package)"
    { may_install && install_package "$package" && have; } || { unpack_package "$package" "$installed" "$unpacked" && have; }
}
