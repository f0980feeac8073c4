# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# What scripts/demo, scripts/test and scripts/gpu-kit share; they source it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
script=$(basename "$0")

say() { echo "$script: $*" >&2; }

# Where the CUDA toolkit puts nvcc, and where scripts/setup --prefix .deps has put the libraries.
PATH+=:${CUDA_HOME:-/usr/local/cuda}/bin
export CMAKE_PREFIX_PATH="$PWD/.deps/usr${CMAKE_PREFIX_PATH:+:$CMAKE_PREFIX_PATH}"

# configure PRESET OPTION...: configures with these options; those of an earlier run are forgotten.
configure() {
    rm -f "build/$1/CMakeCache.txt"
    cmake --preset "$@"
}

# timed WORD COMMAND...: runs the command and adds its seconds to $times.
times=''
timed() {
    local what=$1 began=$SECONDS
    shift
    "$@"
    times+="${times:+, }$what $((SECONDS - began)) s"
}
