/** Buttons that ask the daemon to do something: busy while it does, said when it is done or why it is not. */

import { html, useState } from "../vendor/preact.js";
import { Dialog } from "./dialog.js";
import { Icon } from "./icons.js";
import { changed } from "./live.js";
import { failed, toast } from "./toasts.js";
import { t } from "./words.js";

/**
 * @typedef {object} ActProps
 * @property {() => Promise<any>} run
 * @property {(answer: any) => string | null | undefined} [done] what to say of it when it is done
 * @property {string} [sure] a question to ask before, where there is no way back
 * @property {string} [icon]
 * @property {string} [kind] further classes of the button
 * @property {string} [label] where the text alone does not say which one
 * @property {boolean} [disabled]
 * @property {any} [children]
 */

/** @param {ActProps} props */
export function Act({ run, done, sure, icon, kind = "", label, disabled, children }) {
  const [busy, setBusy] = useState(false);
  const [asking, ask] = useState(false);
  const act = async () => {
    ask(false);
    setBusy(true);
    try {
      const answer = await run();
      const said = done?.(answer);
      if (said) toast(said, { kind: "ok" });
      changed();
    } catch (error) {
      failed(error);
    } finally {
      setBusy(false);
    }
  };
  return html`<button class=${`button ${kind}`} aria-label=${label} aria-busy=${busy} aria-haspopup=${sure && "dialog"} disabled=${disabled || busy} onClick=${sure ? () => ask(true) : act}>
      ${icon && html`<${Icon} name=${icon} />`}${children}
    </button>
    ${asking &&
    html`<${Dialog} title=${label ?? children} close=${() => ask(false)}>
      <p>${sure}</p>
      <footer>
        <button class="button" onClick=${() => ask(false)}>${t("cancel")}</button>
        <button class=${`button ${kind.includes("danger") ? "danger" : "first"}`} onClick=${act}>${children}</button>
      </footer>
    <//>`}`;
}
