/** The chat page. What makes it lose nothing are the lines with `backup`; the rest is any chat page. */

import { connect } from "/api/backup/torpor.js";
import { Refusal, ask, pieces } from "./answer.js";
import { composer, encoded, samplePicture } from "./composer.js";
import { pointsDialog } from "./points.js";
import { drawMessages, drawModels, drawSafety, textOf, wokenWords } from "./view.js";

const torpor = connect({ base: "/api/backup" });
const $ = (id) => /** @type {any} */ (document.getElementById(id));
const box = composer({ send, changed: () => backup.changed(), complain: say });
let session, backup, chat, waiting;

/** Open the chat that the address names, else the last one, else a new one. */
function open() {
  const known = location.hash.slice(1) || localStorage.getItem("chat");
  session = known || `chat-${crypto.randomUUID().slice(0, 8)}`;
  localStorage.setItem("chat", session);
  history.replaceState(null, "", `#${session}`);
  backup?.stop();
  backup = torpor.autoBackup({ sessionId: session, every: 5, state });
  backup.on("*", () => drawSafety(backup.status));
  backup.on("online", () => chat.asleep && wake());
  chat = { conversation: [], unfinished: false, writing: false, asked: false, asleep: false, sent: new Map() };
  box.draft = "";
  say("");
  draw();
  if (known) wake({ first: true });
}

/** Return what there is to back up; asked for at each event. An answer of which nothing is there yet is left out. */
function state() {
  const last = chat.conversation.at(-1);
  const begun = chat.unfinished && last.role === "assistant";
  const conversation = begun && !textOf(last) ? chat.conversation.slice(0, -1) : chat.conversation;
  return { conversation, draft: box.draft, partial: begun && conversation.includes(last) };
}

/**
 * Show the chat as the server has it. Where it sleeps (a restart, another model), it is woken: from a point, or as it was
 * last. The `first` time it is asked for in any case: what was typed and not sent comes back, too.
 */
async function wake({ point, first } = {}) {
  const mine = chat;
  try {
    const awake = point ? null : await look();
    const woken = awake && !first ? null : await restored(point, awake);
    const seen = woken?.local && !awake ? woken : ((await look()) ?? { conversation: [] });
    if (chat !== mine) return; // another one was opened meanwhile
    const asleep = Boolean(woken?.local && !awake && seen.conversation.length);
    Object.assign(chat, { asleep, away: false, unfinished: false, ...seen });
    if (asleep) failed(new Error());
    else if (woken && !awake) say(wokenWords(woken));
    if (woken?.draft && !box.draft) box.draft = woken.draft;
    draw();
    if (woken) showModels(); // a server that was started anew may have another one
    if (point) backup.now().catch(() => {}); // from here on this is the newest; what fails comes as an event
    if (chat.writing || (chat.unfinished && chat.asked)) await goOn();
  } catch (problem) {
    chat.asleep = problem.code === "daemon-not-running";
    failed(problem);
  }
}

/** Wake the chat from its backup. One that is awake can do without: its backup may be away. */
async function restored(point, awake) {
  try {
    return await backup.restore(point);
  } catch (problem) {
    if (!awake) throw problem;
    return null;
  }
}

/** Return the chat as the server has it, or null where it sleeps. */
async function look() {
  return (await ask(`chats/${session}`)).json();
}

/** Send a message and read the answer; returns whether it was taken. */
async function send(said, again = false) {
  if (chat.asleep) failed(new Error());
  if (chat.writing || chat.asleep) return false;
  const { text, images } = said;
  const known = chat.conversation.length;
  const parts = chat.conversation.flatMap(({ content }) => (Array.isArray(content) ? content : []));
  const number = parts.filter((part) => part.type === "image").length;
  images.forEach(({ url }, index) => chat.sent.set(number + index, url));
  chat.conversation.push({ role: "user", content: [...images.map(() => ({ type: "image" })), { type: "text", text }] });
  chat.writing = true;
  say("");
  draw();
  try {
    read(await ask(`chats/${session}`, { text, known, images: await Promise.all(images.map(encoded)) }));
    return true;
  } catch (problem) {
    chat.conversation.pop();
    chat.writing = false;
    draw();
    if (problem.code !== "conflict") failed(problem);
    else await wake(); // the server was started anew meanwhile, or another tab went on
    return problem.code === "conflict" && !again && chat.conversation.length === known && send(said, true);
  }
}

/** Let an answer that was interrupted go on. */
async function goOn() {
  if (chat.conversation.at(-1).role === "assistant") chat.conversation.pop(); // it is told from its beginning
  const mine = chat;
  mine.writing = true; // from now on: a second click asks for nothing
  draw();
  try {
    await read(await ask(`chats/${session}/answer`, {}));
  } catch (problem) {
    mine.writing = false;
    draw();
    throw problem;
  }
}

/** Read an answer to its end. */
async function read(response) {
  const mine = chat;
  const message = { role: "assistant", content: "" };
  chat.conversation.push(message);
  chat.writing = chat.unfinished = chat.asked = true;
  draw();
  backup.message();
  try {
    for await (const piece of pieces(response)) {
      if (chat !== mine) return;
      if (piece.text) message.content += piece.text;
      if (piece.message) Object.assign(message, piece.message);
      draw();
      backup.changed();
    }
    chat.unfinished = chat.asked = false;
    backup.message();
  } catch (problem) {
    if (chat === mine) failed(problem);
  }
  mine.writing = false;
  draw();
}

/** Tell of a failure; where the server is gone, wait for it and wake the chat. */
function failed(problem) {
  say(chat.asleep ? "The chat sleeps, and its backup is away. It wakes as soon as that is back." : problem.message);
  if (!(problem instanceof Refusal) || !problem.away) return;
  chat.away = true;
  say("The model server does not answer. Nothing is lost: this page waits for it, and wakes the chat.");
  clearTimeout(waiting);
  waiting = setTimeout(wake, 500);
}

function say(words) {
  $("notice").textContent = words;
}

function draw() {
  const imageUrl = (number) => chat.sent.get(number) ?? (chat.asleep ? null : `chats/${session}/images/${number}`);
  drawMessages($("messages"), chat, imageUrl);
  $("welcome").hidden = chat.conversation.length > 0;
  $("go-on").hidden = !chat.unfinished || chat.writing || chat.away || chat.asleep;
  $("stop").hidden = !chat.writing;
  $("send").hidden = chat.writing;
  for (const radio of $("models").elements) radio.disabled = chat.writing;
}

/** Go on with another model: the server puts all chats to sleep, and this one is woken under the other. */
async function use(model, name) {
  say(`Loading ${name}…`);
  chat.writing = true;
  draw();
  await ask("models", { model }).catch(failed);
  chat.writing = false;
  await wake();
  showModels();
}

async function showModels() {
  const found = await ask("models").then((response) => response.json(), failed);
  if (!found) return;
  drawModels($("models"), found, use);
  $("note").textContent = found.note;
}

$("sample").onclick = async () => box.add([await samplePicture()]);
$("new").onclick = () => {
  localStorage.removeItem("chat");
  location.hash = "";
  open();
};
$("go-on").onclick = () => goOn().catch(failed);
$("stop").onclick = () => ask(`chats/${session}/stop`, {}).catch(failed);
document.onkeydown = ({ key }) => {
  if (key === "Escape" && chat.writing && !$("points").open) $("stop").click();
};
window.onhashchange = () => {
  if (location.hash.slice(1) !== session) open();
};
setInterval(() => drawSafety(backup.status), 10_000);
pointsDialog(() => backup, (point) => wake({ point }));
showModels();
open();
