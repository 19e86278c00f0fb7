/** The sessions. */

import { html } from "../vendor/preact.js";
import { Waiting } from "./data.js";
import { t } from "./words.js";

export function Page() {
  return html`<div class="page"><h1>${t("nav.sessions")}</h1><${Waiting} /></div>`;
}
