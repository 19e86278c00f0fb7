/** The pages of the dashboard, in the order of the navigation. Each is loaded when it is first opened. */

import { findings } from "./findings.js";
import { status } from "./live.js";
import { waitingPages } from "./pairing.js";

/**
 * @typedef {object} PageEntry
 * @property {string} name of the route and of the phrase `nav.<name>`
 * @property {string} icon
 * @property {() => Promise<{Page: any}>} load its module, which has a component `Page`
 * @property {boolean} [hidden] whether it is reached by links alone
 * @property {() => number} [badge] a signal's value, read while the navigation is drawn: how many things wait there
 */

/** @type {PageEntry[]} */
export const PAGES = [
  { name: "sessions", icon: "sessions", load: () => import("./sessions.js") },
  { name: "storage", icon: "storage", load: () => import("./storage.js") },
  { name: "sync", icon: "sync", load: () => import("./outbox.js"), badge: () => status.value?.remote?.dead_count ?? 0 },
  { name: "health", icon: "health", load: () => import("./health.js"), badge: () => findings.value },
  { name: "access", icon: "access", load: () => import("./access.js"), badge: waitingPages },
  { name: "settings", icon: "settings", load: () => import("./settings.js") },
  { name: "open", icon: "upload", hidden: true, load: () => import("./open.js") },
];

/** Those of the navigation. */
export const LISTED = PAGES.filter((each) => !each.hidden);
