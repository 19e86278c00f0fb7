/** Events of the daemon that are worth a word wherever the user is; the rest stands in the list of the health page. */

import { taken } from "./imports.js";
import { onEvent } from "./live.js";
import { go, href } from "./routes.js";
import { said } from "./said.js";
import { toast } from "./toasts.js";
import { t } from "./words.js";

/** @type {Record<string, string>} where to look, by the beginning of the kind */
const PLACES = { sync: "sync", import: "settings", watch: "settings", evicted: "storage", retention: "storage" };

/** Tell from now on of what went wrong; what went well is seen where it happened. */
export function tellNews() {
  onEvent((event) => {
    if (event.level === "info" || ours(event)) return;
    const page = PLACES[event.kind.split("-")[0]] ?? "health";
    toast(said(`event.${event.kind}`, sentence(event.kind)).text, {
      more: event.detail,
      action: { label: t("pair.look"), run: () => go(href(page)) },
    });
  });
}

/** Whether it is about a file that this page has sent, and tells of itself. @param {import("./live.js").Happening} event */
function ours(event) {
  return event.kind === "import-failed" && taken.value.some((each) => event.detail.startsWith(each.name));
}

/** @param {string} kind @returns {string} its words as a heading */
function sentence(kind) {
  const words = kind.replaceAll("-", " ");
  return words[0].toUpperCase() + words.slice(1);
}
