#!/usr/bin/env bash
# packaging/deb/clean-root.sh: makes, once, the small Debian in which the package is tried: this machine's own release, from
# this machine's own sources, with a service manager and without Python. What apt may install there lies in its cache, so
# nothing is fetched later. Prints its folder. Needs root, mmdebstrap and read lists of apt (apt-get update).
set -euo pipefail
[ "$(id -u)" -eq 0 ] || { echo "clean-root.sh: only root can make a root" >&2; exit 3; }
. /etc/os-release
at_hand=systemd-sysv,dbus,dbus-user-session,libpam-systemd
in_cache="python3 ca-certificates desktop-file-utils shared-mime-info xdg-utils"
# Whoever publishes base-files publishes the release: other sources of this machine have no part in it.
origin=$(apt-get indextargets --format '$(ORIGIN) $(CODENAME)' 'Created-By: Packages' | sed -n "s/ ${VERSION_CODENAME}\$//p" |
    grep -xE 'Debian|Ubuntu' | head -1)
sources=$(apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' "Origin: ${origin:-Debian}" | sort -u)
[ -n "$sources" ] || { echo "clean-root.sh: apt has no lists of ${PRETTY_NAME}; run apt-get update" >&2; exit 3; }
key=$(printf '%s\n' "$sources" | cat - "$0" | sha256sum | cut -c 1-16)
folder=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/torpor/clean-root-$VERSION_CODENAME-$key
if [ ! -d "$folder" ]; then
    mkdir -p "$(dirname "$folder")"
    find "$(dirname "$folder")" -maxdepth 1 -name "clean-root-*" -mtime +30 -exec rm -rf {} +
    work=$(mktemp -d "$(dirname "$folder")/.making-XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mapfile -t options < <(apt-config dump | grep -E '^Acquire::(Check-|https?::|Retries)' | sed 's/^/--aptopt=/')
    printf '%s\n' "$sources" | mmdebstrap --quiet --mode=root --variant=minbase --include="$at_hand" "${options[@]}" \
        --skip=cleanup/apt --format=tar \
        --customize-hook="chroot \"\$1\" apt-get install -qq -y --download-only --no-install-recommends $in_cache >/dev/null" \
        --customize-hook='for user in ann bob; do chroot "$1" useradd --create-home "$user"; done' \
        --customize-hook='mkdir -p "$1/var/lib/systemd/linger" && touch "$1/var/lib/systemd/linger/ann"' \
        --customize-hook='for unit in console-getty.service getty.target dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer systemd-tmpfiles-clean.timer; do ln -sf /dev/null "$1/etc/systemd/system/$unit"; done' \
        "$VERSION_CODENAME" "$work/root.tar" - >&2
    mkdir "$work/root"
    tar -xf "$work/root.tar" -C "$work/root" --numeric-owner
    mv -T "$work/root" "$folder" 2>/dev/null || [ -d "$folder" ]
fi
echo "$folder"
