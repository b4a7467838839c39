#!/usr/bin/env bash
# Writes the locks (*.txt) from the wishes (*.in): dev first, the others as subsets of it, so that all agree.
# torch is pinned by its bare version: pip then takes whichever build of it the index or wheel folder offers.
# Run by `make lock`; needs pip-tools in the Python it is given.
set -euo pipefail
cd "$(dirname "$0")"
python=${1:?usage: lock.sh PYTHON}
compile() {
    local name=$1; shift
    "$python" -m piptools compile --quiet --strip-extras --allow-unsafe --no-header --no-annotate \
        --no-emit-find-links --no-emit-index-url --no-emit-trusted-host "$@" -o "$name.txt" "$name.in"
    sed -i 's/^\(torch==[0-9.]*\)+.*/\1/' "$name.txt"
    sed -i "1i # Written by 'make lock' from $name.in; edit that file." "$name.txt"
}
rm -f audit.txt dev.txt gateway.txt handler.txt tracing.txt training.txt
compile dev
for name in gateway handler tracing training; do compile "$name" --constraint dev.txt; done
compile audit
