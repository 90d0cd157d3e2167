# Shared by quickstart and test: what the build needs from Debian, and the build itself. Sourced.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

build_packages=(g++ cmake ninja-build ccache pkg-config libhwy-dev libtbb-dev libopenblas-openmp-dev
  doctest-dev nlohmann-json3-dev libfmt-dev libcli11-dev libtomlplusplus-dev libpcre2-dev
  libutf8proc-dev libxxhash-dev libopenmpi-dev openmpi-bin)

# Builds of several presets share what does not depend on the folder.
export CCACHE_BASEDIR=${CCACHE_BASEDIR:-$root}

say() { printf '\n\033[1m==> %s\033[0m\n' "$*"; }

# need_packages NAME...: installs the Debian packages that are missing, saying which.
need_packages() {
  local missing=() package sudo=()
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' ||
      missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  say "Installing from Debian: ${missing[*]}"
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
      echo "These packages are missing and this is neither root nor a user with sudo: ${missing[*]}" >&2
      return 1
    }
    sudo=(sudo)
  fi
  local log
  log=$(mktemp)
  if ! { "${sudo[@]}" apt-get update -qq &&
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "apt-get could not install them; its last words are above" >&2
    return 1
  fi
  rm -f "$log"
}

# find_nvcc: the path of CUDA's compiler; false where there is none.
find_nvcc() {
  command -v nvcc || ls "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" 2>/dev/null
}

# has_card: true where there is an NVIDIA card and the toolkit that compiles for it.
has_card() {
  find_nvcc >/dev/null && command -v nvidia-smi >/dev/null &&
    nvidia-smi -L 2>/dev/null | grep -q '^GPU'
}

# build PRESET TARGET...: configures and builds into build/PRESET; release with CUDA where there is
# a card.
build() {
  local preset=$1 options=() begin=$SECONDS
  shift
  [ "$preset" = release ] && has_card && options=(-DOLM_CUDA=ON)
  say "Building ($preset${options[*]:+, with CUDA}): $*"
  (cd "$root" && cmake --preset "$preset" "${options[@]}" >"$root/build/.configure.log" 2>&1) || {
    cat "$root/build/.configure.log" >&2
    return 1
  }
  cmake --build "$root/build/$preset" --target "$@"
  echo "$preset, build: $((SECONDS - begin)) s"
}
mkdir -p "$root/build"
