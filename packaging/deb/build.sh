#!/usr/bin/env bash
# packaging/deb/build.sh [PYTHON]: makes dist/torpor_VERSION_ARCH.deb, with everything that `torpor[daemon,tray]` needs but
# for Python itself. The same sources give the same bytes (SOURCE_DATE_EPOCH; else the time of the last commit).
#
# TORPOR_DEB_PYTHON   the Python of the release that it is for (3.11: Debian 12; 3.13: Debian 13); PYTHON's own unless set
# TORPOR_DEB_VERSION  the version, where it is not that of pyproject.toml
# TORPOR_DEB_OUT      where it goes, if not to dist
# TORPOR_DEB_PACKED   how dpkg-deb packs it: xz unless set
#
# Needs binutils, dpkg-dev and, once for each set of libraries, pip's index.
set -euo pipefail
python=$(realpath -s "$(command -v "${1:-python3}")")
cd "$(dirname "$0")/../.."
target=${TORPOR_DEB_PYTHON:-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')}
out=${TORPOR_DEB_OUT:-dist}
architecture=$(dpkg --print-architecture)
version=${TORPOR_DEB_VERSION:-$("$python" -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])')}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y pyproject.toml)}
export SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC PYTHONHASHSEED=0
umask 022

bundle=$(packaging/deb/bundle.sh "$python" "$target")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
inside=usr/lib/torpor/lib/python$target/site-packages

# The libraries, and the wheel beside them, in what Python takes for a virtual environment: so `python -m torpor.…`, which
# the daemon and the tray call by sys.executable, finds the same modules, whatever else the machine has.
mkdir -p "$root/usr/lib/torpor/lib/python$target" "$root/usr/lib/torpor/bin" "$root/usr/bin"
cp -a "$bundle/libraries" "$root/$inside"
packaging/wheel.sh "$python" "$work/wheel" >&2
"$python" -m zipfile -e "$work"/wheel/torpor-*.whl "$work/code"
rm "$work"/code/torpor-*.dist-info/RECORD
cp -a "$work"/code/. "$root/$inside"
printf 'dpkg\n' | tee "$root/$inside"/*.dist-info/INSTALLER >/dev/null
printf 'home = /usr/bin\ninclude-system-site-packages = false\nversion = %s\n' "$target" >"$root/usr/lib/torpor/pyvenv.cfg"
ln -s "../../../bin/python$target" "$root/usr/lib/torpor/bin/python3"
install -m 755 packaging/deb/torpor "$root/usr/lib/torpor/bin/torpor"
ln -s ../lib/torpor/bin/torpor "$root/usr/bin/torpor"
# Bindings of GTK come with the release, and serve panels that know nothing newer: found where they are installed.
ln -s ../../../../python3/dist-packages/gi "$root/$inside/gi"

# What a desktop is told. The texts and the pictures are those that the code itself has.
share=$root/usr/share
mkdir -p "$share/doc/torpor/examples" "$share/lintian/overrides"
cp -r packaging/prometheus packaging/grafana -t "$share/doc/torpor/examples"
gzip -9nc CHANGELOG.md >"$share/doc/torpor/CHANGELOG.md.gz"
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$work/code "$python" packaging/desktop_files.py "$root" >&2
install -m 644 packaging/deb/lintian-overrides "$share/lintian/overrides/torpor"
"$python" packaging/deb/copyright.py "$root/$inside" >"$share/doc/torpor/copyright"
"$python" packaging/deb/changelog.py "$version" | gzip -9n >"$share/doc/torpor/changelog.gz"

find "$root" -name __pycache__ -prune -exec rm -rf {} +
chmod -R u=rwX,go=rX "$root"
find "$root" -type f -path '*/site-packages/*' -perm /111 -exec chmod 644 {} +

mkdir "$root/DEBIAN"
next=${target%.*}.$((${target#*.} + 1))
cat >"$root/DEBIAN/control" <<CONTROL
Package: torpor
Version: $version
Architecture: $architecture
Maintainer: ${DEBFULLNAME:-Torpor maintainers} <${DEBEMAIL:-maintainers@torpor.invalid}>
Installed-Size: $(du -sk --apparent-size "$root/usr" | cut -f 1)
Depends: python3 (>= $target), python3 (<< $next), python$target, $(cat "$bundle/needs"), ca-certificates, debconf (>= 0.5) | debconf-2.0
Recommends: dbus-user-session, desktop-file-utils, hicolor-icon-theme, shared-mime-info, xdg-utils
Suggests: gir1.2-ayatanaappindicator3-0.1, gnome-shell-extension-appindicator, python3-gi, python3-secretstorage
Section: utils
Priority: optional
Description: puts a running multimodal model session to sleep and wakes it again
 Torpor keeps sessions of vision-language models: the conversation, its
 pictures and videos, the KV cache and everything else that a restart would
 lose. It saves them to disk, incrementally and bit for bit, and gives them
 back after a crash, after a reboot, under another model or on another machine,
 by way of a bucket of one's own.
 .
 The package holds the daemon, the command line, the dashboard and the tray.
 The library that an inference process uses is installed beside that process,
 with pip. Nothing starts by itself: "torpor init" sets up what is asked for.
CONTROL
for script in postinst prerm postrm; do install -m 755 "packaging/deb/$script" "$root/DEBIAN/$script"; done
install -m 644 packaging/deb/templates "$root/DEBIAN/templates"
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"

find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$out"
dpkg-deb --root-owner-group -Z"${TORPOR_DEB_PACKED:-xz}" -z1 --build "$root" "$out/torpor_${version}_$architecture.deb" >&2
echo "$out/torpor_${version}_$architecture.deb"
