/** The pages of the dashboard, in the order of the navigation. Each is loaded when it is first opened. */

/**
 * @typedef {object} PageEntry
 * @property {string} name of the route and of the phrase `nav.<name>`
 * @property {string} icon
 * @property {() => Promise<{Page: any}>} load its module, which has a component `Page`
 * @property {() => number} [badge] a signal's value, read while the navigation is drawn: how many things wait there
 */

/** @type {PageEntry[]} */
export const PAGES = [
  { name: "sessions", icon: "sessions", load: () => import("./sessions.js") },
];
