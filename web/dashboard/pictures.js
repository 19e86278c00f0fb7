/** Pictures of backups: fetched with the token, made small in the page, and forgotten when many others came since. */

import { html, useEffect, useState } from "../vendor/preact.js";
import { Icon } from "./icons.js";
import { call, Problem } from "./session.js";

const KEPT = 160; // thumbnails
const AT_ONCE = 4;
const LARGEST_BYTES = 32 << 20; // of a file that is fetched for a thumbnail

/** @type {Map<string, string>} address of the picture -> blob: URL, the last used last */
const kept = new Map();
/** @typedef {{made: Promise<string>, askers: number, stop: AbortController}} Work */
/** @type {Map<string, Work>} */
const coming = new Map();
/** @type {(() => void)[]} */
const waiting = [];
let running = 0;

/** @param {string} backupId @param {number} index @param {boolean} fetched from S3, if need be */
function mediaPath(backupId, index, fetched) {
  return `/v1/backups/${encodeURIComponent(backupId)}/media/${index}${fetched ? "?fetch=true" : ""}`;
}

/**
 * A picture of a backup, cut to its square, or as it is with `whole`. Until it is there, and where it is not to be had,
 * a sign stands in its place, just as large.
 * @param {{backup: string, index: number, bytes?: number, alt?: string, pixels?: number, whole?: boolean, fetched?: boolean}} props
 */
export function Picture({ backup, index, bytes = 0, alt = "", pixels = 56, whole = false, fetched = false }) {
  const key = `${whole ? "whole" : "square"}${pixels}:${mediaPath(backup, index, fetched)}`;
  const [url, setUrl] = useState(kept.get(key) ?? "");
  const [gone, setGone] = useState(bytes > LARGEST_BYTES);
  useEffect(() => {
    const left = new AbortController();
    setUrl(kept.get(key) ?? "");
    setGone(bytes > LARGEST_BYTES);
    if (bytes > LARGEST_BYTES) return;
    thumbnail(key, mediaPath(backup, index, fetched), pixels, whole, left.signal).then(
      (made) => left.signal.aborted || setUrl(made),
      (error) => left.signal.aborted || setGone(known(error)),
    );
    return () => left.abort();
  }, [key]);
  if (url) return html`<img class="picture" src=${url} alt=${alt} decoding="async" draggable=${false} />`;
  return html`<span class=${`picture ${gone ? "gone" : "bone"}`} role=${alt ? "img" : undefined} aria-label=${alt || undefined}>
    ${gone && html`<${Icon} name="image" />`}
  </span>`;
}

/** What may be: the bytes are not here, or are no picture. @param {unknown} error */
function known(error) {
  if (error instanceof Problem || error instanceof TypeError || error instanceof DOMException) return true;
  throw error;
}

/**
 * Return the address of a thumbnail. Nobody waits for one when all who asked have aborted: then it is not fetched.
 * @param {string} key @param {string} path @param {number} pixels @param {boolean} whole @param {AbortSignal} left
 * @returns {Promise<string>}
 */
function thumbnail(key, path, pixels, whole, left) {
  const there = kept.get(key);
  if (there) {
    kept.delete(key);
    kept.set(key, there);
    return Promise.resolve(there);
  }
  const work = coming.get(key) ?? begin(key, path, pixels, whole);
  work.askers += 1;
  left.addEventListener("abort", () => {
    work.askers -= 1;
    if (work.askers === 0) (work.stop.abort(), coming.delete(key));
  });
  return work.made;
}

/** @param {string} key @param {string} path @param {number} pixels @param {boolean} whole @returns {Work} */
function begin(key, path, pixels, whole) {
  const stop = new AbortController();
  const made = inTurn(() => (stop.signal.throwIfAborted(), make(path, pixels, whole, stop.signal)))
    .then((url) => keep(key, url))
    .finally(() => coming.get(key)?.stop === stop && coming.delete(key));
  const work = { made, askers: 0, stop };
  coming.set(key, work);
  return work;
}

/** @param {string} path @param {number} pixels @param {boolean} whole @param {AbortSignal} signal */
async function make(path, pixels, whole, signal) {
  const picture = await createImageBitmap(await (await call("GET", path, undefined, { signal })).blob());
  const sharp = pixels * Math.min(devicePixelRatio, 3);
  const scale = Math.min(sharp / (whole ? Math.max(picture.width, picture.height) : Math.min(picture.width, picture.height)), 1);
  const [width, height] = [Math.max(picture.width * scale, 1), Math.max(picture.height * scale, 1)];
  const canvas = new OffscreenCanvas(whole ? width : Math.min(width, height), whole ? height : Math.min(width, height));
  const brush = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
  brush.imageSmoothingQuality = "high";
  brush.drawImage(picture, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
  picture.close();
  return URL.createObjectURL(await canvas.convertToBlob({ type: "image/webp", quality: 0.85 }));
}

/** @param {string} key @param {string} url */
function keep(key, url) {
  kept.set(key, url);
  for (const oldest of [...kept.keys()].slice(0, Math.max(kept.size - KEPT, 0))) {
    URL.revokeObjectURL(/** @type {string} */ (kept.get(oldest)));
    kept.delete(oldest);
  }
  return url;
}

/** @template T @param {() => Promise<T>} work @returns {Promise<T>} */
async function inTurn(work) {
  if (running >= AT_ONCE) await new Promise((go) => waiting.push(() => go(null)));
  running += 1;
  try {
    return await work();
  } finally {
    running -= 1;
    waiting.shift()?.();
  }
}
