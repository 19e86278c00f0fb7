/** Where the user is: the part of the address behind `#`, as `#/page/part/part?name=value`. */

import { signal } from "../vendor/preact.js";

/** @typedef {{page: string, parts: string[], query: URLSearchParams}} Route */

/** Read an address; what does not begin with `#/` (a login link) is no place. @param {string} hash @returns {Route} */
export function parse(hash) {
  const [path, query = ""] = (hash.startsWith("#/") ? hash.slice(2) : "").split("?");
  const [page, ...parts] = path.split("/").filter(Boolean).map(decoded);
  return { page: page || "sessions", parts, query: new URLSearchParams(query) };
}

/** The place of now. */
export const route = signal(parse(location.hash));
addEventListener("hashchange", () => (route.value = parse(location.hash)));

/**
 * Return the address of a place, for links.
 * @param {string} page @param {string[]} [parts] @param {Record<string, string>} [query]
 */
export function href(page, parts = [], query = {}) {
  const behind = new URLSearchParams(Object.entries(query).filter(([, value]) => value)).toString();
  return `#/${[page, ...parts].map(encodeURIComponent).join("/")}${behind ? `?${behind}` : ""}`;
}

/** Go to a place. With `instead`, the way back leaves this one out. @param {string} to @param {{instead?: boolean}} [how] */
export function go(to, { instead = false } = {}) {
  if (to === location.hash) return;
  if (instead) history.replaceState(null, "", to);
  else history.pushState(null, "", to);
  route.value = parse(to);
}

addEventListener("popstate", () => (route.value = parse(location.hash)));

/** @param {string} part */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
