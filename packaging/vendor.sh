#!/usr/bin/env bash
# Makes web/vendor anew: the libraries of the pages, pinned, each as one file. Needs npm; nothing of it is needed to run.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && npm init -y >/dev/null && npm install --silent --no-audit --no-fund \
    preact@11.2.0 htm@3.1.1 @preact/signals@2.11.4 idb@8.0.4 esbuild@0.28.2)
cat >"$work/preact.js" <<'JS'
export { h, render, Fragment, createContext } from "preact";
export * from "preact/hooks";
export * from "@preact/signals";
import { h } from "preact";
import htm from "htm";
export const html = htm.bind(h);
JS
(cd "$work" && npx esbuild preact.js --bundle --format=esm --minify --legal-comments=none --log-level=error --outfile=out.js)
{ echo "/*! preact 11.2.0, @preact/signals 2.11.4 (MIT), htm 3.1.1 (Apache-2.0): see LICENSES.txt. Made by packaging/vendor.sh. */"
  cat "$work/out.js"; } >web/vendor/preact.js
{ echo "/*! idb 8.0.4 (ISC): see LICENSES.txt. Made by packaging/vendor.sh. */"
  cat "$work/node_modules/idb/build/index.js"; } >web/vendor/idb.js
sed '/wrap-idb-value/d' "$work/node_modules/idb/build/entry.d.ts" >web/vendor/idb.d.ts
for name in preact @preact/signals htm idb; do
    printf '%s\n\n' "== $name"
    cat "$work/node_modules/$name/LICENSE"
    echo
done >web/vendor/LICENSES.txt
