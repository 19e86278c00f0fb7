/** The dashboard begins here. */

import { html, render } from "../vendor/preact.js";
import { lookForFindings } from "./findings.js";
import { listen } from "./live.js";
import { tellNews } from "./news.js";
import { lookForPagesAlways } from "./pairing.js";
import { prepare, Shell, why } from "./shell.js";
import { Problem, signIn } from "./session.js";
import { inWords } from "./toasts.js";

/** Take a login link, where the address is one; it may also be put into a tab that is open already. */
async function enter() {
  try {
    await signIn();
  } catch (error) {
    const { text, more } = inWords(error);
    const used = error instanceof Problem && error.status === 401;
    why.value = used ? "signed_out.used" : more ? `${text}: ${more}` : text;
  }
}

addEventListener("hashchange", enter);
const page = prepare(); // its files come while the login link is taken
await enter();
await page;
listen();
tellNews();
lookForPagesAlways();
lookForFindings();
render(html`<${Shell} />`, /** @type {HTMLElement} */ (document.getElementById("app")));
