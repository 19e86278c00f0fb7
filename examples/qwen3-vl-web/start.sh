#!/usr/bin/env bash
# Starts the example, and the daemon where none runs yet. Ctrl-C ends what was started.
set -euo pipefail
if ! torpor status >/dev/null 2>&1; then
    torpor serve &
    daemon=$!
    trap 'kill "$daemon" 2>/dev/null; wait' EXIT
    until torpor status >/dev/null 2>&1; do
        kill -0 "$daemon"
        sleep 0.2
    done
fi
python "$(dirname "$0")/server.py" "$@"
