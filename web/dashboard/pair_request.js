/** One web page that asks for access: its code to compare, what it may get, yes and no. */

import { html, useState } from "../vendor/preact.js";
import { Act } from "./act.js";
import { lookForPages } from "./pairing.js";
import { json } from "./session.js";
import { Time } from "./states.js";
import { t } from "./words.js";

/** @param {{request: import("./pairing.js").PairRequest}} props */
export function Request({ request }) {
  const [given, give] = useState(request.scopes);
  const open = request.state === "pending";
  /** @param {string} verb @param {any} [body] */
  const answer = async (verb, body) => {
    const answered = await json("POST", `/v1/pair/requests/${encodeURIComponent(request.code)}/${verb}`, body);
    await lookForPages();
    return answered;
  };
  /** @param {string} scope */
  const toggle = (scope) => give(given.includes(scope) ? given.filter((each) => each !== scope) : [...given, scope]);
  return html`<li class="request">
    <p class="pair-code" aria-label=${t("pair.code", { code: request.code })}>${request.code}</p>
    <div class="grow">
      <h3>${request.label}</h3>
      <p class="mono small">${request.origin}</p>
      <p class="small muted">${t("pair.asked")} <${Time} at=${request.asked_at} /></p>
      <fieldset disabled=${!open}>
        <legend class="hidden-text">${t("pair.scopes")}</legend>
        ${request.scopes.map(
          (scope) => html`<label key=${scope} class="switch">
            <input type="checkbox" checked=${given.includes(scope)} onChange=${() => toggle(scope)} />
            <span><strong>${t(`scope.${scope}`)}</strong> <span class="small muted">${t(`scope.${scope}.more`)}</span></span>
          </label>`,
        )}
      </fieldset>
    </div>
    <div class="row">
      ${open
        ? html`<${Act} kind="first" icon="check" disabled=${given.length === 0} run=${() => answer("approve", { scopes: given })} done=${() => t("pair.approved", { label: request.label })}>${t("pair.approve")}<//>`
        : html`<span class="chip good">${t("pair.fetching")}</span>`}
      <${Act} run=${() => answer("deny")} done=${() => t("pair.denied", { label: request.label })}>${open ? t("pair.deny") : t("pair.take_back")}<//>
    </div>
  </li>`;
}
