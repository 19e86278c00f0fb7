/** The dialog with what is kept of a chat: points to go back to, each with what that would bring. */

import { ago, count, make, planWords } from "./view.js";

/** Make the dialog work. `backup()` is that of the open chat; `goBack(point)` is called with the point that was chosen. */
export function pointsDialog(backup, goBack) {
  const [dialog, list, saveNow] = ["points", "points-list", "save-now"].map((id) => document.getElementById(id));

  async function fill() {
    const found = await backup().points().catch((problem) => problem);
    if (!Array.isArray(found)) return list.replaceChildren(make("li", { textContent: found.message }));
    // An answer is saved when it begins, too: of points with as many messages, the newest is enough.
    const shown = found.filter((point, index) => point.messages !== found[index - 1]?.messages);
    list.replaceChildren(...shown.map(entry));
    if (!shown.length) list.replaceChildren(make("li", { textContent: "Nothing yet. The first message will be." }));
  }

  function entry(point) {
    const at = point.createdAt * 1000;
    const when = make("time", { textContent: ago(at), title: new Date(at).toLocaleString() });
    const begun = point.partial ? ", the last one begun" : "";
    const where = point.local ? ", in this browser" : "";
    const heading = make("summary", {}, make("span", {}, when, ` · ${count(point.messages, "message")}${begun}${where}`));
    if (point.preview) heading.append(make("q", { textContent: point.preview }));
    const words = make("p", { textContent: "…" });
    const button = make("button", { type: "button", textContent: "Go back to here" });
    button.onclick = () => {
      dialog.close();
      goBack(point);
    };
    const details = make("details", { name: "points" }, heading, words, button);
    details.ontoggle = async () => {
      if (details.open) words.textContent = await backup().plan(point).then(planWords, ({ message }) => message);
    };
    return make("li", {}, details);
  }

  saveNow.onclick = async () => {
    saveNow.disabled = true;
    await backup().now().catch(() => {}); // the page hears of it by an event
    saveNow.disabled = false;
    fill();
  };
  document.getElementById("safety").onclick = () => {
    list.replaceChildren();
    dialog.showModal();
    fill();
  };
  dialog.onclick = (event) => {
    if (event.target === dialog) dialog.close(); // beside it
  };
}
