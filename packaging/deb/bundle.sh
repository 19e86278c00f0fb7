#!/usr/bin/env bash
# packaging/deb/bundle.sh PYTHON [VERSION]: the libraries of `torpor[daemon,tray]` for one Python (3.11, say; PYTHON's own
# unless named), as the package holds them, and which packages they need. Prints their folder, which is kept until what is
# asked for changes.
set -euo pipefail
python=$(realpath -s "$(command -v "$1")")
cd "$(dirname "$0")/../.."
top=$PWD
version=${2:-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')}
machine=$(uname -m)
key=$({ "$python" packaging/deb/requirements.py ask && cat packaging/constraints.txt packaging/deb/bundle.sh; } | sha256sum | cut -c 1-16)
bundle=$top/build/deb/bundle-$version-$key
if [ ! -d "$bundle" ]; then
    mkdir -p build/deb
    work=$(mktemp -d "$top/build/deb/.bundle-XXXXXX")
    trap 'rm -rf "$work"' EXIT
    "$python" packaging/deb/requirements.py ask >"$work/requirements"
    # The oldest glibc that wheels are taken for decides where the package runs, whatever it is built on.
    "$python" -m pip install -qq --no-compile --target "$work/libraries" --only-binary=:all: --python-version "$version" \
        --platform "manylinux_2_28_$machine" --platform "manylinux2014_$machine" --platform "manylinux_2_17_$machine" \
        --constraint packaging/constraints.txt --requirement "$work/requirements" >&2
    "$python" packaging/deb/requirements.py check "$work/libraries"
    cd "$work/libraries"
    # Scripts of libraries, their tests, and where pip took them from.
    rm -rf bin jeepney/tests jeepney/io/tests certifi/tests boto3/examples
    find . -path '*.dist-info/*' \( -name direct_url.json -o -name REQUESTED -o -name RECORD \) -delete
    # Of the services that botocore knows: the bucket, and what signs in to it.
    find botocore/data boto3/data -mindepth 1 -maxdepth 1 -type d \
        ! -name s3 ! -name sts ! -name sso ! -name sso-oidc ! -name signin -exec rm -rf {} +
    # The tray draws shapes: no fonts, no colour profiles, no formats of the web.
    rm -f PIL/_{avif,webp,imagingcms,imagingft,imagingtk}.*.so \
        pillow.libs/lib{avif,brotlicommon,brotlidec,freetype,harfbuzz,lcms2,png16,sharpyuv,webp,webpdemux,webpmux}-*
    find . -name '*.py' -exec sed -i '1{/^#!/d}' {} +
    # The machine's own authorities, with those that its owner has added.
    for authorities in certifi/cacert.pem botocore/cacert.pem; do
        ln -sf /etc/ssl/certs/ca-certificates.crt "$authorities"
    done
    find . -type f \( -name '*.so' -o -name '*.so.*' \) -exec strip --strip-unneeded {} +
    # Which libc they need is read from their shared objects; those that wheels bring along are their own.
    cd ..
    mkdir debian libraries/DEBIAN
    printf 'Source: torpor\n\nPackage: torpor\nArchitecture: any\n' >debian/control
    mapfile -t objects < <(find libraries -name '*.so' -o -name '*.so.*' | sort)
    mapfile -t private < <(find libraries -type d -name '*.libs' -printf "-l$PWD/%p\n" | sort)
    dpkg-shlibdeps -O --ignore-missing-info "${private[@]}" "${objects[@]}" 2>log | sed 's/^shlibs:Depends=//' >needs ||
        { cat log >&2; exit 1; }
    rm -r debian libraries/DEBIAN log requirements
    cd "$top"
    find build/deb -mindepth 1 -maxdepth 1 -name "bundle-$version-*" -exec rm -rf {} +
    mv -T "$work" "$bundle" 2>/dev/null || [ -d "$bundle" ]
fi
echo "$bundle"
