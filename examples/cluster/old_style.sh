#!/bin/bash
# As scripts have always done it: a lock file with a pid, made with noclobber. From this directory:
# ./old_style.sh STRATEGY DATASET RATIO

set -euo pipefail

folder=${WEIGHTS:-weights}/$1/$2/$3
lock=$folder/.training_lock
mkdir -p "$folder"
if ! (set -o noclobber && echo "$$" >"$lock") 2>/dev/null; then
    echo "skipped: $lock is held by $(cat "$lock")" >&2
    exit 75
fi
trap 'rm -f "$lock"' EXIT

python train.py "$@" --out "$folder"
