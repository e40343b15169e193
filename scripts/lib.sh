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
