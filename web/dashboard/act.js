/** Buttons that ask the daemon to do something: busy while it does, said when it is done or why it is not. */

import { html, useState } from "../vendor/preact.js";
import { Icon } from "./icons.js";
import { changed } from "./live.js";
import { failed, toast } from "./toasts.js";

/**
 * @param {{run: () => Promise<any>, done?: (answer: any) => string | null | undefined, icon?: string, kind?: string, label?: string,
 *   disabled?: boolean, children?: any}} props
 *   `done` says what was done, in a toast; `label` where the text alone does not say which one
 */
export function Act({ run, done, icon, kind = "", label, disabled, children }) {
  const [busy, setBusy] = useState(false);
  const pressed = async () => {
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
  return html`<button class=${`button ${kind}`} aria-label=${label} aria-busy=${busy} disabled=${disabled || busy} onClick=${pressed}>
    ${icon && html`<${Icon} name=${icon} />`}${children}
  </button>`;
}
