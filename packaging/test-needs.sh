#!/usr/bin/env bash
# packaging/test-needs.sh [PYTHON]: sees to what the tests need beside Python packages, on Debian and its children: what is
# listed below, and as root what the tests of the Debian package start from. What cannot be had is named, and this fails.
set -euo pipefail
missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v xdg-mime >/dev/null || missing+=(xdg-utils)
command -v update-mime-database >/dev/null || missing+=(shared-mime-info)
command -v mimetype >/dev/null || missing+=(libfile-mimeinfo-perl) # whom xdg-mime asks where no desktop runs
command -v desktop-file-validate >/dev/null || missing+=(desktop-file-utils)
command -v busctl >/dev/null || missing+=(systemd)
command -v gio >/dev/null || missing+=(libglib2.0-bin)
# Half of the work of the Chromium with windows, which will do where the other cannot be had.
command -v chromium-headless-shell >/dev/null || [ -x "${TORPOR_CHROMIUM:-}" ] ||
    { command -v chromium && ! apt-cache show chromium-headless-shell; } >/dev/null 2>&1 ||
    missing+=(chromium-headless-shell)
command -v dbus-daemon >/dev/null || missing+=(dbus)
if [ -n "${TORPOR_PANEL:-}" ]; then # a screen, a panel, and a tray of the old kind, for pictures and `make soak`
    command -v Xvfb >/dev/null || missing+=(xvfb)
    command -v xfce4-panel >/dev/null || missing+=(xfce4-panel)
    command -v trayer >/dev/null || missing+=(trayer)
    [ -d /usr/lib/python3/dist-packages/gi ] || missing+=(python3-gi gir1.2-gtk-3.0)
    [ -n "$(find /usr/lib -name 'AyatanaAppIndicator3-0.1.typelib' -print -quit)" ] ||
        missing+=(gir1.2-ayatanaappindicator3-0.1)
fi
packages=false
if command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
    packages=true
    command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
    command -v lintian >/dev/null || missing+=(lintian)
    command -v strip >/dev/null || missing+=(binutils)
    command -v dpkg-shlibdeps >/dev/null || missing+=(dpkg-dev)
    command -v fish >/dev/null || missing+=(fish)
    command -v zsh >/dev/null || missing+=(zsh)
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null && sudo -n true 2>/dev/null && as_root=(sudo -n)
    [ ${#as_root[@]} -gt 0 ] || as_root=(false)
fi
if [ ${#missing[@]} -gt 0 ]; then
    echo "The tests need ${missing[*]}: installing." >&2
    if ! { command -v apt-get >/dev/null && "${as_root[@]}" apt-get update -qq >&2 &&
        DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2; }; then
        echo "The tests need ${missing[*]}. Install them (apt-get install ${missing[*]}), and run again;" \
            "a Chromium elsewhere is named by TORPOR_CHROMIUM." >&2
        exit 1
    fi
fi
# Made once: the libraries of the package, and the Debian in which it is installed.
if $packages && [ $# -gt 0 ]; then
    cd "$(dirname "$0")/.."
    packaging/deb/bundle.sh "$1" >/dev/null
    packaging/deb/clean-root.sh >/dev/null || { apt-get update -qq >&2 && packaging/deb/clean-root.sh >/dev/null; }
fi
