/** Files that are taken in: dropped anywhere onto the page, or chosen; each goes to the daemon, which parses it apart. */

import { html, signal, useEffect, useState } from "../vendor/preact.js";
import { Icon } from "./icons.js";
import { changed } from "./live.js";
import { go, href } from "./routes.js";
import { json } from "./session.js";
import { inWords, toast } from "./toasts.js";
import { t } from "./words.js";

/**
 * @typedef {{key: number, name: string, size_bytes: number, state: "sending" | "waiting" | "running" | "done" | "failed", backup_id?: string | null,
 *   session_id?: string | null, outcome?: string | null, problem?: {text: string, more?: string}}} Taken
 */

const LOOK_MS = 300;
const OVER = ["done", "failed"];

/** What was taken in since the page was opened, newest first. */
export const taken = signal(/** @type {Taken[]} */ ([]));
let made = 0;
let line = Promise.resolve(); // one after the other: the daemon parses one at a time

/** Take files in. @param {Iterable<File>} files */
export function takeIn(files) {
  for (const file of files) {
    const key = ++made;
    taken.value = [{ key, name: file.name, size_bytes: file.size, state: "sending" }, ...taken.value];
    line = line.then(() => one(key, file));
  }
}

/** @param {number} key @param {Partial<Taken>} change */
function note(key, change) {
  taken.value = taken.value.map((each) => (each.key === key ? { ...each, ...change } : each));
}

/** @param {number} key @param {File} file */
async function one(key, file) {
  try {
    let found = await json("POST", `/v1/imports?name=${encodeURIComponent(file.name)}`, file.slice(0, file.size, "application/octet-stream"));
    while (!OVER.includes(found.state)) {
      note(key, { state: found.state });
      await new Promise((go) => setTimeout(go, LOOK_MS));
      found = await json("GET", `/v1/imports/${encodeURIComponent(found.id)}`);
    }
    note(key, { state: found.state, backup_id: found.backup_id, session_id: found.session_id, problem: found.problem && { text: found.problem.detail, more: found.problem.hint } });
    if (found.state === "failed") toast(t("import.failed", { name: file.name }), { more: found.problem?.detail, kind: "bad" });
    else if (found.session_id) toast(t("import.done", { name: file.name }), { kind: "ok", action: { label: t("import.open"), run: () => go(href("sessions", [found.session_id, found.backup_id])) } });
    changed();
  } catch (error) {
    const problem = inWords(error);
    note(key, { state: "failed", problem });
    toast(t("import.failed", { name: file.name }), { more: problem.text, kind: "bad" });
  }
}

/** Whether files are what is dragged. @param {DragEvent} event */
const carriesFiles = (event) => Boolean(event.dataTransfer?.types.includes("Files"));

/** The whole page as a place to drop files onto. */
export function DropPlace() {
  const [over, setOver] = useState(false);
  useEffect(() => {
    const stop = new AbortController();
    /** @param {(event: DragEvent) => void} run */
    const files = (run) => (/** @type {DragEvent} */ event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      run(event);
    };
    addEventListener("dragenter", files(() => setOver(true)), stop);
    addEventListener("dragover", files(() => setOver(true)), stop);
    addEventListener("dragleave", files((event) => event.relatedTarget === null && setOver(false)), stop);
    addEventListener("drop", files((event) => {
      setOver(false);
      takeIn(event.dataTransfer?.files ?? []);
    }), stop);
    return () => stop.abort();
  }, []);
  return over && html`<div class="drop-place" aria-hidden="true"><div><${Icon} name="upload" /><strong>${t("import.drop")}</strong></div></div>`;
}
