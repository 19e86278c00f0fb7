/** How many panes of the sessions there is room for; sessions.css draws the same lines. */

import { html, signal } from "../vendor/preact.js";

/** Whether the list stands beside a session. */
export const broad = matching("(min-width: 860px)");

/** Whether a session's history and its chosen backup stand side by side, too. */
export const roomy = matching("(min-width: 1200px)");

/** @param {string} query */
function matching(query) {
  const media = matchMedia(query);
  const found = signal(media.matches);
  media.addEventListener("change", () => (found.value = media.matches));
  return found;
}

/** The heading of a pane: the first of the page, where the list is not to be seen. @param {{title?: string, children?: any}} props */
export function PaneHeading({ title, children }) {
  return broad.value ? html`<h2 class="one-line" title=${title}>${children}</h2>` : html`<h1 class="one-line" title=${title}>${children}</h1>`;
}
