# Shared by the scripts; source it. Bash.

root_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*" >&2; }
die() { say "$(basename "$0"): $*"; exit 1; }

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# Installs the named Debian packages that are missing. Does nothing, and needs no rights, when none is.
need_packages() {
  local missing=() package
  for package in "$@"; do installed "$package" || missing+=("$package"); done
  [ ${#missing[@]} -eq 0 ] && return
  command -v apt-get >/dev/null || die "needs these Debian packages: ${missing[*]}"
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || die "packages are missing; run: sudo apt-get update; sudo apt-get install ${missing[*]}"
    as_root=(sudo -n)
  fi
  say "installing: ${missing[*]}"
  # One stale or unreachable index makes the update fail as a whole; what counts is whether the packages can be installed.
  "${as_root[@]}" apt-get update -q >&2 || say "apt-get update reported a problem; going on with the indexes that are there"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >&2 ||
    die "cannot install: ${missing[*]}"
}

# Package names listed in scripts/packages.NAME for each of the names.
listed_packages() {
  local name
  for name in "$@"; do grep -v '^#' "$root_dir/scripts/packages.$name"; done
}

# Configures (once) and builds the named targets, or everything, of a CMake preset.
build() {
  local preset=$1
  shift
  [ -f "$root_dir/build/$preset/build.ninja" ] || (cd "$root_dir" && cmake --preset "$preset" >&2) || die "configuring failed"
  ninja -C "$root_dir/build/$preset" "$@" >&2 || die "building failed"
}

# --- Debian packages for i386 as files of guests: unpacked into a folder of the build, not installed ---

debian_store=$root_dir/build/debian

# Only one script at a time fetches, unpacks and builds; tests run at once. Locks until unlock_store or the end of the script.
lock_store() {
  mkdir -p "$debian_store"/apt/{lists,cache,debs}/partial
  exec {store_lock}>"$debian_store/lock"
  flock "$store_lock"
}
unlock_store() { exec {store_lock}>&-; }

# apt with indexes of its own, so that neither the system's architectures nor its package state change, and no rights are needed.
private_apt() {
  local tool=$1
  shift
  "$tool" -q -o Dir::State::lists="$debian_store/apt/lists" -o Dir::Cache="$debian_store/apt/cache" -o APT::Architecture=i386 \
    -o APT::Architectures::=i386 -o APT::Sandbox::User=root -o Acquire::Languages=none \
    -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false "$@"
}

update_index() {
  say "reading the package index for i386"
  private_apt apt-get update >&2 || say "apt-get update reported a problem; going on with the indexes that are there"
}

# fetch PACKAGE FOLDER: downloads PACKAGE (name:architecture) and unpacks it into FOLDER.
fetch() {
  say "fetching $1"
  rm -rf "$debian_store/apt/debs" "$2.new"
  mkdir -p "$debian_store/apt/debs"
  (cd "$debian_store/apt/debs" && private_apt apt-get download "$1" >&2) || return 1
  dpkg-deb -x "$debian_store"/apt/debs/*.deb "$2.new" && rm -rf "$2" && mv "$2.new" "$2" && rm -rf "$debian_store/apt/debs"
}

# fetch_all FOLDER PACKAGE...: downloads packages with all they depend on and unpacks them, over each other, into FOLDER.
fetch_all() {
  local folder=$1 package
  shift
  say "fetching $* and what they need"
  rm -rf "$debian_store/apt/debs" "$folder.new"
  mkdir -p "$debian_store/apt/debs/partial"
  private_apt apt-get install -y --download-only --no-install-recommends -o Dir::State::status=/dev/null -o Debug::NoLocking=1 \
    -o Dir::Cache::archives="$debian_store/apt/debs" "$@" >&2 || return 1
  for package in "$debian_store"/apt/debs/*.deb; do dpkg-deb -x "$package" "$folder.new" || return 1; done
  rm -rf "$folder" && mv "$folder.new" "$folder" && rm -rf "$debian_store/apt/debs"
}
