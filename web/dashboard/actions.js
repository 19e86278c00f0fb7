/** What a user does to sessions and backups: each says how it ended, and what can be taken back offers it. */

import { signal } from "../vendor/preact.js";
import { changed } from "./live.js";
import { go, href } from "./routes.js";
import { call, json, Problem } from "./session.js";
import { sessions } from "./session_list.js";
import { close, failed, toast } from "./toasts.js";
import { t } from "./words.js";

/** @typedef {import("./session_list.js").Backup} Backup */

const AT_ONCE = 4;

/** Ids of backups and sessions that something is done to right now. */
export const busy = signal(/** @type {ReadonlySet<string>} */ (new Set()));

/** Ids of backups that were removed here: lists that are not refreshed yet still name them. */
export const removed = signal(/** @type {ReadonlySet<string>} */ (new Set()));

/** Whether a process was wanted while none is attached; the page then says how to attach one. */
export const lacking = signal(false);

/** Do something to a backup or session, once at a time. Returns whether it went well. @param {string} id @param {() => Promise<void>} act */
async function doing(id, act) {
  if (busy.value.has(id)) return false;
  busy.value = new Set([...busy.value, id]);
  try {
    await act();
    changed();
    return true;
  } catch (error) {
    if (error instanceof Problem && error.code === "no-process") lacking.value = true;
    else failed(error);
    return false;
  } finally {
    busy.value = new Set([...busy.value].filter((each) => each !== id));
  }
}

/** Give a session a name, or none. @param {string} session @param {string | null} title */
export function rename(session, title) {
  return doing(session, async () => {
    await json("PATCH", path("sessions", session), { title });
    toast(t("rename.done"), { kind: "ok" });
  });
}

/** Pin a backup, or unpin it; until `shown` is done, it cannot be done again. @param {Backup} backup @param {() => Promise<void>} shown */
export function pin(backup, shown) {
  return doing(backup.id, async () => {
    await json("PATCH", path("backups", backup.id), { pinned: !backup.pinned });
    await shown();
    toast(t(backup.pinned ? "pin.off" : "pin.on"), { kind: "ok" });
  });
}

/** Remove a backup from this machine; for a while it can be taken back. @param {Backup} backup @param {boolean} last of its session */
export function remove(backup, last) {
  return doing(backup.id, async () => {
    await call("DELETE", path("backups", backup.id));
    removed.value = new Set([...removed.value, backup.id]);
    if (last) sessions.forget(backup.session_id);
    go(href("sessions", last ? [] : [backup.session_id]), { instead: true });
    const said = toast(t("remove.done"), {
      kind: "ok",
      stays_ms: 30_000,
      action: { label: t("undo"), run: () => (close(said), takeBack(backup)) },
    });
  });
}

/** @param {Backup} backup */
function takeBack(backup) {
  return doing(backup.id, async () => {
    await json("POST", `${path("backups", backup.id)}/undo-removal`);
    removed.value = new Set([...removed.value].filter((id) => id !== backup.id));
    go(href("sessions", [backup.session_id, backup.id]));
    toast(t("remove.undone"), { kind: "ok" });
  });
}

/** Remove a session with all of its backups, the oldest first; for a while it can be taken back. @param {string} session */
export function removeSession(session) {
  return doing(session, async () => {
    /** @type {{backups: Backup[]}} */
    const { backups } = await json("GET", `/v1/backups?${new URLSearchParams({ session_id: session, limit: "10000" })}`);
    go(href("sessions"), { instead: true }); // nobody looks at what is going
    await each(backups.toReversed(), async ({ id }) => void (await call("DELETE", path("backups", id))));
    sessions.forget(session);
    const said = toast(t("remove.session_done", { n: backups.length }), {
      kind: "ok",
      stays_ms: 30_000,
      action: { label: t("undo"), run: () => (close(said), takeSessionBack(session, backups)) },
    });
  });
}

/** @param {string} session @param {Backup[]} backups */
function takeSessionBack(session, backups) {
  return doing(session, async () => {
    await each(backups, ({ id }) => json("POST", `${path("backups", id)}/undo-removal`));
    toast(t("remove.undone"), { kind: "ok" });
    go(href("sessions", [session]));
  });
}

/** Do something to each, a few at once. @template T @param {T[]} items @param {(item: T) => Promise<void>} act */
async function each(items, act) {
  const left = items.slice();
  const hand = async () => {
    for (let item = left.shift(); item !== undefined; item = left.shift()) await act(item);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, hand));
}

/** Wake a backup in the process that is attached. @param {Backup} backup */
export function restore(backup) {
  return doing(backup.id, async () => {
    const said = await json("POST", `/api/backup/restore/${encodeURIComponent(backup.id)}`, {});
    toast(t("restore.done", { mode: t(`mode.${said.mode}`) }), { kind: "ok", more: t("restore.done_more") });
  });
}

/** Let the attached process save a session now. @param {string} session */
export function backUpNow(session) {
  return doing(session, async () => {
    const said = await json("POST", "/api/backup/create", { session_id: session });
    toast(t("now.done"), { kind: "ok" });
    if (said.backup_id) go(href("sessions", [session, said.backup_id]), { instead: true });
  });
}

/** @param {"sessions" | "backups"} kind @param {string} id */
function path(kind, id) {
  return `/v1/${kind}/${encodeURIComponent(id)}`;
}
