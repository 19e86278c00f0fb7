#!/usr/bin/env bash
# tests/run.sh PYTHON [what pytest takes]: runs the tests side by side. What fails then is run once more by itself, since
# three at a time on two cores may keep one waiting for longer than it bears: it is listed, and to be mended. What fails
# again, or more than five at once, fails the run.
set -uo pipefail
python=$1
shift
unset PYTHONDONTWRITEBYTECODE # or every interpreter that a test starts compiles all that it imports
cache=$(mktemp -d)
trap 'rm -rf "$cache"' EXIT
"$python" -m pytest -q -n "${WORKERS:-3}" --dist worksteal -o cache_dir="$cache" "$@"
status=$?
[ $status -eq 1 ] || exit $status
failed=$("$python" -c 'import json, sys; print(len(json.load(open(sys.argv[1]))))' "$cache/v/cache/lastfailed") || exit 1
[ "$failed" -le 5 ] || exit 1
echo "$failed failed beside others. Once more, alone:"
"$python" -m pytest -q -o cache_dir="$cache" --last-failed --last-failed-no-failures none "$@"
