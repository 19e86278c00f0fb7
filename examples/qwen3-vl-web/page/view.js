/** What is drawn, and in which words. */

/** Make an element. @returns {any} */
export function make(tag, fields = {}, ...children) {
  const element = Object.assign(document.createElement(tag), fields);
  element.append(...children);
  return element;
}

/** Return the words of a message. */
export function textOf({ content }) {
  return typeof content === "string" ? content : content.map((part) => part.text ?? "").join("");
}

/** Draw the conversation; `imageUrl(n)` is where its n-th image is, null for now. What is there already is kept. */
export function drawMessages(list, { conversation, writing }, imageUrl) {
  const atEnd = window.innerHeight + window.scrollY > document.body.scrollHeight - 120;
  let image = 0;
  conversation.forEach((message, index) => {
    const parts = Array.isArray(message.content) ? message.content : [];
    const urls = parts.filter((part) => part.type === "image").map(() => imageUrl(image++));
    const item = list.children[index] ?? list.appendChild(make("li"));
    const shown = JSON.stringify([message, urls]);
    if (item.shown !== shown) fill(item, message, urls);
    item.shown = shown;
    item.classList.toggle("writing", Boolean(writing) && index === conversation.length - 1 && message.role === "assistant");
  });
  while (list.children.length > conversation.length) list.lastChild.remove();
  if (atEnd) window.scrollTo(0, document.body.scrollHeight);
}

function fill(item, message, urls) {
  item.className = message.role;
  const who = make("span", { className: "unseen", textContent: message.role === "user" ? "You:" : "The model:" });
  const images = urls.map((src, n) => {
    const name = `Image ${n + 1}`;
    return src ? make("img", { src, alt: name }) : make("span", { textContent: name });
  });
  const thought = message.reasoning_content;
  const parts = [
    thought && make("details", {}, make("summary", { textContent: "Thought" }), thought),
    images.length && make("div", { className: "shown" }, ...images),
    make("div", { className: "words", textContent: textOf(message) }),
  ];
  item.replaceChildren(who, ...parts.filter(Boolean));
}

/** Draw the switch of models. */
export function drawModels(fieldset, { model, models }, use) {
  const entries = models.map(({ id, name }) => {
    const radio = make("input", { type: "radio", name: "model", value: id, checked: id === model, className: "unseen" });
    radio.onchange = () => use(id, name);
    return make("label", { title: name }, radio, make("span", { textContent: id.toUpperCase() }));
  });
  fieldset.replaceChildren(fieldset.firstElementChild, ...entries);
}

/** Say how safe the chat is. */
export function drawSafety({ phase, online, pending, savedAt, problem }) {
  const [state, words] =
    phase === "refused" ? ["bad", `Not saved: ${problem?.message}`]
    : !online ? ["waiting", "Backup is away: kept in this browser"]
    : phase === "saving" ? ["busy", "Saving…"]
    : pending ? ["waiting", "Kept in this browser"]
    : savedAt ? ["good", `Saved ${ago(savedAt)}`]
    : ["none", "Nothing to save yet"];
  document.getElementById("safety").dataset.state = state;
  document.getElementById("safety-words").textContent = words;
}

const MODES = {
  full: "everything, as it was",
  prefix: "everything; it goes on from the cache",
  embeddings: "everything but the cache",
  media: "text and images, for this model to look at anew",
  "text-only": "the text",
  local: "the text that this browser kept",
};

/** Say what came back. */
export function wokenWords({ mode, plan, conversation }) {
  const again = plan?.tokensPrefill > 1 ? ` (${count(plan.tokensPrefill, "token")} are read again)` : "";
  return `Woken with ${count(conversation.length, "message")}: ${MODES[mode] ?? mode}${again}.`;
}

/** Say what a restore would bring back. */
export function planWords({ words }) {
  const sentence = words.join(", ");
  return sentence[0].toUpperCase() + sentence.slice(1).replace(/\.?$/, ".");
}

/** Return a number of things in words. */
export function count(number, thing) {
  return `${number.toLocaleString()} ${thing}${number === 1 ? "" : "s"}`;
}

/** Return how long ago something was, in words. */
export function ago(milliseconds) {
  const seconds = Math.round((Date.now() - milliseconds) / 1000);
  const words = new Intl.RelativeTimeFormat("en", { style: "short" });
  if (seconds < 10) return "just now";
  if (seconds < 60) return words.format(-seconds, "second");
  if (seconds < 3600) return words.format(-Math.floor(seconds / 60), "minute");
  if (seconds < 86_400) return words.format(-Math.floor(seconds / 3600), "hour");
  return words.format(-Math.floor(seconds / 86_400), "day");
}
