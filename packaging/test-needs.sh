#!/usr/bin/env bash
# Sees to what the tests need beside Python packages, on Debian and its children: what is listed below. What cannot be
# installed is named, and this fails.
set -euo pipefail
missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v xdg-mime >/dev/null || missing+=(xdg-utils)
command -v update-mime-database >/dev/null || missing+=(shared-mime-info)
command -v desktop-file-validate >/dev/null || missing+=(desktop-file-utils)
command -v gio >/dev/null || missing+=(libglib2.0-bin)
command -v chromium >/dev/null || [ -x "${TORPOR_CHROMIUM:-}" ] || missing+=(chromium)
command -v dbus-daemon >/dev/null || missing+=(dbus)
command -v systemd-analyze >/dev/null || missing+=(systemd)
[ ${#missing[@]} -eq 0 ] && exit 0
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null && sudo -n true 2>/dev/null && as_root=(sudo -n)
    [ ${#as_root[@]} -gt 0 ] || as_root=(false)
fi
echo "The tests need ${missing[*]}: installing." >&2
if command -v apt-get >/dev/null && "${as_root[@]}" apt-get update -qq >&2 &&
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2; then
    exit 0
fi
echo "The tests need ${missing[*]}. Install them (apt-get install ${missing[*]}), and run again;" \
    "a Chromium elsewhere is named by TORPOR_CHROMIUM." >&2
exit 1
