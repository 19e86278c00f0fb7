#!/usr/bin/env bash
# packaging/wheel.sh PYTHON FOLDER: makes the sdist and, from the sdist alone, the wheel. Needs setuptools in PYTHON; else
# pip fetches it. The working tree's build folder, which may hold modules that are gone by now, has no part in it.
set -euo pipefail
python=$(realpath -s "$(command -v "$1")")
cd "$(dirname "$0")/.."
mkdir -p "$2"
out=$(cd "$2" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y pyproject.toml)}
umask 022
mkdir "$work/tree"
if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git ls-files -z --cached --others --exclude-standard | while IFS= read -rd '' name; do [ -e "$name" ] && printf '%s\0' "$name"; done |
        tar -cf - --null -T - | tar -xf - -C "$work/tree"
else
    tar -cf - --exclude=./build --exclude=./dist --exclude='./.*' . | tar -xf - -C "$work/tree"
fi
cd "$work/tree"
"$python" -P -W ignore -c 'import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])' "$out" >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; exit 1; }
mkdir "$work/sdist"
tar -xf "$out"/torpor-*.tar.gz -C "$work/sdist" --strip-components 1
cd "$work/sdist"
"$python" -P -W ignore -c 'import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])' "$out" >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; exit 1; }
ls "$out"
