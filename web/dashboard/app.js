/** The dashboard begins here. */

import { html, render } from "../vendor/preact.js";
import { lookForFindings } from "./findings.js";
import { listen } from "./live.js";
import { tellNews } from "./news.js";
import { lookForPagesAlways } from "./pairing.js";
import { prepare, Shell, why } from "./shell.js";
import { signIn } from "./session.js";
import { inWords } from "./toasts.js";

const page = prepare(); // its files come while the login link is taken
try {
  await signIn();
} catch (error) {
  const { text, more } = inWords(error);
  why.value = more ? `${text}: ${more}` : text;
}
await page;
listen();
tellNews();
lookForPagesAlways();
lookForFindings();
render(html`<${Shell} />`, /** @type {HTMLElement} */ (document.getElementById("app")));
