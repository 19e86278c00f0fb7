/** The dialog with what is kept of a chat: points to go back to, each with what that would give. */

import { ago, make } from "./view.js";

/** Make the dialog work. `goBack(point)` is called when the user chose one. */
export function pointsDialog(backup, goBack) {
  const [dialog, list, saveNow] = ["points", "points-list", "save-now"].map((id) => document.getElementById(id));

  async function fill() {
    list.replaceChildren(make("li", { textContent: "Looking…" }));
    const found = await backup().points().catch((problem) => problem);
    if (!Array.isArray(found)) return list.replaceChildren(make("li", { textContent: String(found.message) }));
    list.replaceChildren(...found.map(entry));
    if (!found.length) list.replaceChildren(make("li", { textContent: "Nothing yet: it is saved with the first message." }));
  }

  function entry(point) {
    const words = make("small", {});
    const button = make("button", { type: "button", className: "quiet" });
    const when = make("time", { textContent: ago(point.createdAt * 1000), title: new Date(point.createdAt * 1000).toLocaleString() });
    const where = point.local ? " · in this browser" : "";
    button.append(make("span", {}, when, `: ${point.messages} messages${where}`), make("q", { textContent: point.preview }), words);
    button.onclick = async () => {
      if (button.ariaExpanded === "true") {
        dialog.close();
        return goBack(point);
      }
      for (const other of list.querySelectorAll("button")) other.ariaExpanded = String(other === button);
      words.textContent = "…";
      const plan = point.local ? { words: ["the text comes back"] } : await backup().plan(point).catch((problem) => ({ words: [problem.message] }));
      words.textContent = `${plan.words.join(", ")}. Click again to go back to it.`;
    };
    return make("li", {}, button);
  }

  saveNow.onclick = async () => {
    saveNow.disabled = true;
    await backup().now().catch(() => {}); // the page hears of it by its events
    saveNow.disabled = false;
    fill();
  };
  document.getElementById("safety").onclick = () => {
    dialog.showModal();
    fill();
  };
  dialog.onclick = (event) => event.target === dialog && dialog.close();
}
