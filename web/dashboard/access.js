/** Who may speak with the daemon: pages that wait for approval, tokens that were given, programs that are attached. */

import { html, useEffect } from "../vendor/preact.js";
import { Act } from "./act.js";
import { Attached } from "./attached.js";
import { Failed, useData, Waiting } from "./data.js";
import { Icon } from "./icons.js";
import { Request } from "./pair_request.js";
import { lookForPages, requests } from "./pairing.js";
import { json } from "./session.js";
import { Time } from "./states.js";
import { t } from "./words.js";

/** @typedef {{id: string, label: string, scopes: string[], origin: string | null, created_at: number, used_at: number | null, expires_at: number | null}} Token */

export function Page() {
  useEffect(() => void lookForPages(), []);
  return html`<div class="page">
    <header><h1>${t("nav.access")}</h1></header>
    <${Requests} />
    <${Tokens} />
    <${Attached} />
  </div>`;
}

function Requests() {
  const found = requests.value;
  return html`<section class="card" aria-labelledby="asking">
    <header><h2 id="asking">${t("pair.title")}</h2></header>
    ${found === null
      ? html`<${Waiting} lines=${1} />`
      : found.length === 0
        ? html`<p class="muted">${t("pair.none")}</p>`
        : html`<p class="notice"><${Icon} name="info" /><span>${t("pair.compare")}</span></p>
            <ul class="requests">${found.map((each) => html`<${Request} key=${each.code} request=${each} />`)}</ul>`}
  </section>`;
}

function Tokens() {
  const { data, error, reload } = useData((signal) => json("GET", "/v1/tokens", undefined, { signal }), [requests.value?.length ?? 0]);
  return html`<section class="card" aria-labelledby="tokens">
    <header><h2 id="tokens">${t("token.title")}</h2></header>
    ${error && !data ? html`<${Failed} error=${error} retry=${reload} />` : !data ? html`<${Waiting} />` : html`<${List} tokens=${data.tokens} />`}
  </section>`;
}

/** @param {{tokens: Token[]}} props */
function List({ tokens }) {
  if (tokens.length === 0) return html`<p class="muted">${t("token.none")}</p>`;
  return html`<ul class="items">
    ${[...tokens].reverse().map(
      (token) => html`<li key=${token.id}>
        <div class="grow">
          <div class="row"><strong class="one-line">${token.label}</strong>${token.scopes.map((each) => html`<span key=${each} class="chip" title=${t(`scope.${each}.more`)}>${t(`scope.${each}`)}</span>`)}</div>
          <p class="small muted">
            ${token.origin && html`<span class="mono">${token.origin}</span> · `}
            ${t("token.made")} <${Time} at=${token.created_at} /> · ${token.used_at === null ? t("token.unused") : html`${t("token.used")} <${Time} at=${Math.max(token.used_at, token.created_at)} />`}
            ${token.expires_at !== null && html` · ${t("token.ends")} <${Time} at=${token.expires_at} />`}
          </p>
        </div>
        <${Act} kind="small danger" label=${t("token.revoke_one", { label: token.label })} sure=${t("token.sure")} run=${() => json("DELETE", `/v1/tokens/${token.id}`)} done=${() => t("token.revoked", { label: token.label })}>${t("token.revoke")}<//>
      </li>`,
    )}
  </ul>`;
}
