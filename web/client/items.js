/** What of a page's state goes to a server, and in which form: pure functions, but that an item says when it is sent. */

/**
 * @typedef {import("./torpor.d.ts").Message} Message
 * @typedef {import("./torpor.d.ts").PageState} PageState
 * @typedef {import("./torpor.d.ts").Part} Part
 */

/**
 * A state as this browser keeps it; `own` are the messages as the page has them, where they say more. `shared` messages at its beginning are those of `base`, so they need not be sent.
 * @typedef {{
 *   id: string, session_id: string, created_at: number, tab: string, working: boolean, pending: boolean,
 *   base: string | null, shared: number, bare: boolean, own: any[] | null, messages: Message[], draft: string | null,
 *   partial: boolean, title: string | null, refused: {code: string, detail: string} | null,
 * }} Row
 */

/** What a server is sent. @typedef {{
 *   id: string, session_id: string, created_at: number, sent_at: number, base: string | null, keep: number,
 *   bare: boolean, behind: string | null, messages: Message[], draft: string | null, partial: boolean,
 *   title: string | null,
 * }} PageItem */

/**
 * The conversation of a backup that the server is known to have, message by message; it begins with `prompts` messages of
 * the system. A page that shows none (`bare`) does not count them: the server may have some that the page never saw.
 * @typedef {{backupId: string, keys: string[], prompts: number}} Base
 */

const END_CHARS = 32; // of the last message that is not sent
const TEXTS = ["name", "reasoning_content", "tool_call_id", "tool_calls"]; // what else a chat template knows of a message

/** Return a message with what chat templates know of it, and nothing else. @param {any} message @returns {Message} */
export function plain(message) {
  const { role, content } = message;
  /** @type {any} */
  const found = { role: String(role), content: Array.isArray(content) ? content.map(plainPart) : String(content ?? "") };
  for (const key of TEXTS) if (message[key] !== undefined && message[key] !== null) found[key] = message[key];
  return found;
}

/** @param {any} part @returns {Part} */
function plainPart(part) {
  if (typeof part === "string") return { type: "text", text: part };
  if (part.type === "video") return { type: "video" };
  if (part.type !== "image" && part.type !== "image_url") return { type: "text", text: String(part.text ?? "") };
  return Number.isInteger(part.index) ? { type: "image", index: part.index } : { type: "image" };
}

/** @param {Message} message */
function isPrompt({ role }) {
  return role === "system" || role === "developer";
}

/**
 * Return what is known of a backup by a conversation; a message that is still being written is no part of it.
 * @param {string} backupId @param {any[]} conversation @param {boolean} partial @returns {Base}
 */
export function baseOf(backupId, conversation, partial) {
  const whole = (partial ? conversation.slice(0, -1) : conversation).map(plain);
  const spoken = whole.findIndex((message) => !isPrompt(message));
  return { backupId, keys: keysOf(whole), prompts: spoken < 0 ? whole.length : spoken };
}

/** Return texts that are equal where messages are. @param {any[]} conversation */
export function keysOf(conversation) {
  return conversation.map((message) => JSON.stringify(plain(message)));
}

/** Return how many messages two conversations begin with in common. @param {string[]} left @param {string[]} right */
export function shared(left, right) {
  const most = Math.min(left.length, right.length);
  let n = 0;
  while (n < most && left[n] === right[n]) n += 1;
  return n;
}

/** Tell whether a conversation is a beginning of a state's, and less of it. @param {any[]} conversation @param {Row} row */
export function takesAway(conversation, { messages }) {
  const count = conversation.length;
  return count < messages.length && shared(keysOf(conversation), keysOf(messages.slice(0, count))) === count;
}

/**
 * Make the row of a state. A partial message is sent whole: the server may have less of it.
 * @param {PageState} state
 * @param {{id: string, sessionId: string, now: number, tab: string, base: Base | null, working: boolean}} about
 * @returns {Row}
 */
export function rowOf(state, { id, sessionId, now, tab, base, working }) {
  const messages = state.conversation.map(plain);
  const partial = Boolean(state.partial);
  const whole = partial ? messages.slice(0, -1) : messages;
  const bare = messages.length > 0 && !isPrompt(messages[0]);
  return {
    id,
    session_id: sessionId,
    created_at: now / 1000,
    tab,
    working,
    pending: true,
    base: base === null ? null : base.backupId,
    shared: base === null ? 0 : shared(keysOf(whole), base.keys.slice(bare ? base.prompts : 0)),
    bare,
    own: beyond(state.conversation, messages),
    messages,
    draft: state.draft || null,
    partial,
    title: state.title || null,
    refused: null,
  };
}

/**
 * Return what the page has of its messages beyond the plain ones, where it can be stored; else null.
 * @param {any[]} kept @param {Message[]} messages
 */
function beyond(kept, messages) {
  try {
    return JSON.stringify(kept) === JSON.stringify(messages) ? null : structuredClone(kept);
  } catch {
    return null;
  }
}

/** Return what a server is sent of a row. @param {Row} row @returns {PageItem} */
export function itemOf(row) {
  const keep = row.base === null ? 0 : row.shared;
  return {
    id: row.id,
    session_id: row.session_id,
    created_at: row.created_at,
    sent_at: Date.now() / 1000, // a server with another clock knows by it how long ago that was
    base: row.base,
    keep,
    bare: row.bare,
    behind: keep > 0 ? endOf(row.messages[keep - 1]) : null,
    messages: row.messages.slice(keep),
    draft: row.draft,
    partial: row.partial,
    title: row.title,
  };
}

/** Return how a message ends: by it the server sees that both mean the same. @param {Message} message */
function endOf(message) {
  return textOf(message).slice(-END_CHARS).replace(/^[\uDC00-\uDFFF]/, ""); // no half of a pair
}

/** Return an item that leans on no backup: for a server that does not have its base. @param {Row} row @returns {PageItem} */
export function wholeItemOf(row) {
  return itemOf({ ...row, base: null, shared: 0 });
}

/**
 * Tell whether a later state has all that an earlier one has, so that the earlier one need not be sent.
 * @param {Row} later @param {Row} earlier
 */
export function covers(later, earlier) {
  if (later.session_id !== earlier.session_id) return false;
  if (earlier.draft !== null && later.tab !== earlier.tab && later.draft !== earlier.draft) return false;
  const [mine, its] = [later.messages, earlier.messages];
  if (mine.length < its.length) return false;
  const whole = earlier.partial ? its.length - 1 : its.length;
  if (shared(keysOf(mine), keysOf(its.slice(0, whole))) < whole) return false;
  if (!earlier.partial) return !(later.partial && mine.length === its.length);
  const [now, then] = [mine[whole], its[whole]];
  return now.role === then.role && textOf(now).startsWith(textOf(then));
}

/** Tell whether two states are the same. @param {Row} left @param {Row} right */
export function same(left, right) {
  return contentOf(left) === contentOf(right);
}

/** @param {Row} row */
function contentOf({ messages, draft, partial, title }) {
  return JSON.stringify([messages, draft, partial, title]);
}

/** Return the words of a message. @param {Message} message */
export function textOf({ content }) {
  if (typeof content === "string") return content;
  return content.map((part) => (part.type === "text" ? part.text : "")).join("");
}

/**
 * Choose what fits into a body, in their order.
 * @param {PageItem[]} items the most wanted first @param {number} room in bytes of UTF-8 @returns {PageItem[]}
 */
export function fitting(items, room) {
  return items.filter((item) => {
    const size = sizeOf(item) + 1;
    if (size > room) return false;
    room -= size;
    return true;
  });
}

/**
 * Return how many of the first rows go into one request; at least one does.
 * @param {Row[]} rows @param {number} room in bytes @param {number} most
 */
export function leading(rows, room, most) {
  let n = 0;
  while (n < Math.min(rows.length, most) && (room -= sizeOf(itemOf(rows[n]))) >= 0) n += 1;
  return Math.max(n, 1);
}

/** Return how many bytes a value has as JSON. @param {unknown} value */
export function sizeOf(value) {
  return new TextEncoder().encode(JSON.stringify(value)).length;
}
