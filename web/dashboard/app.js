/** The dashboard begins here. */

import { html, render } from "../vendor/preact.js";
import { listen } from "./live.js";
import { tellNews } from "./news.js";
import { lookForPagesAlways } from "./pairing.js";
import { Shell, why } from "./shell.js";
import { signIn } from "./session.js";
import { inWords } from "./toasts.js";

try {
  await signIn();
} catch (error) {
  const { text, more } = inWords(error);
  why.value = more ? `${text}: ${more}` : text;
}
listen();
tellNews();
lookForPagesAlways();
render(html`<${Shell} />`, /** @type {HTMLElement} */ (document.getElementById("app")));
