/** A question over the page: the browser's own dialog, which keeps the focus and closes with Escape. */

import { html, useEffect, useRef } from "../vendor/preact.js";
import { Icon } from "./icons.js";
import { t } from "./words.js";

/** @param {{title: string, close: () => void, wide?: boolean, children?: any}} props */
export function Dialog({ title, close, wide, children }) {
  const place = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => {
    const before = /** @type {HTMLElement | null} */ (document.activeElement);
    place.current?.showModal();
    return () => before?.focus?.();
  }, []);
  return html`<dialog
    ref=${place}
    class=${wide ? "wide" : ""}
    aria-label=${title}
    onClose=${close}
    onClick=${(/** @type {MouseEvent} */ event) => event.target === place.current && place.current?.close()}
  >
    <header>
      <h2>${title}</h2>
      <button class="plain" aria-label=${t("close")} onClick=${() => place.current?.close()}><${Icon} name="close" /></button>
    </header>
    ${children}
  </dialog>`;
}
