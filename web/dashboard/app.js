/** The dashboard. */

import { html, render } from "/vendor/preact.js";
import { json, signIn } from "/dashboard/session.js";

function SignedOut({ why }) {
  return html`<main>
    <h1>Torpor</h1>
    <p>${why || "This tab is not signed in."}</p>
    <p>Open the dashboard with <code>torpor open</code>, or from the tray.</p>
  </main>`;
}

function Overview({ status }) {
  return html`<main>
    <h1>Torpor</h1>
    <p>${status.backups} backups of ${status.sessions} sessions in ${status.home}</p>
  </main>`;
}

async function start() {
  const place = document.getElementById("app");
  try {
    if (!(await signIn())) return render(html`<${SignedOut} />`, place);
    render(html`<${Overview} status=${await json("GET", "/v1/status")} />`, place);
  } catch (error) {
    render(html`<${SignedOut} why=${error.message} />`, place);
  }
}

start();
