/** How all is: every check of the doctor, the scrub that reads everything again, and what happened. */

import { html, useEffect, useRef } from "../vendor/preact.js";
import { Act } from "./act.js";
import { Failed, useData, Waiting } from "./data.js";
import { Events } from "./events.js";
import { countFindings } from "./findings.js";
import { Icon } from "./icons.js";

import { usePoll } from "./poll.js";
import { Reading } from "./reading.js";
import { Said, Verbatim } from "./said.js";
import { json } from "./session.js";
import { t } from "./words.js";
import { Time } from "./states.js";

const LOOK_MS = 400;
const OLD_S = 600;

/** @typedef {{name: string, status: "ok" | "warning" | "error", detail: string, hint: string, fixable: boolean}} Check */

export function Page() {
  const { data, error, reload } = useData((signal) => json("GET", "/v1/doctor", undefined, { signal }), [], { live: false });
  const going = data?.state === "running" || data?.state === "fixing";
  const last = useRef(/** @type {any} */ (null)); // stays while everything is looked at again: nothing moves
  if (data?.state === "done") last.current = data;
  usePoll(reload, LOOK_MS, going);
  const look = async () => {
    await json("POST", "/v1/doctor");
    reload();
  };
  useEffect(() => {
    if (data && !going && (data.state === "never" || Date.now() / 1000 - data.ended_at > OLD_S)) look().catch(reload);
    if (data) countFindings(data);
  }, [data?.state]);
  return html`<div class="page">
    <header>
      <h1 class="grow">${t("nav.health")}</h1>
      ${!going && data?.ended_at && html`<span class="small muted">${t("health.looked")} <${Time} at=${data.ended_at} /></span>`}
      <${Act} icon="restore" disabled=${going} run=${look}>${t("health.again")}<//>
    </header>
    ${error && !data ? html`<${Failed} error=${error} retry=${reload} />` : html`<${Found} data=${data} found=${last.current} going=${going} reload=${reload} />`}
    ${last.current && html`<${Reading} /><${Events} />`}
  </div>`;
}

/** @param {{data: any, found: any, going: boolean, reload: () => void}} props */
function Found({ data, found, going, reload }) {
  if (!found) {
    return html`<section class="card checks" aria-busy="true">
      <header><h2>${data?.total ? t("health.looking", { done: data.done, total: data.total }) : t("wait")}</h2></header>
      <${Waiting} lines=${12} />
    </section>`;
  }
  const checks = /** @type {Check[]} */ (found.checks);
  const bad = checks.filter((each) => each.status !== "ok");
  const fixable = bad.filter((each) => each.fixable);
  const fix = async () => {
    await json("POST", "/v1/doctor/fix", {});
    reload();
  };
  return html`<section class="card checks" aria-labelledby="checks" aria-busy=${going}>
    <header>
      <h2 id="checks" class="grow"><${Summary} checks=${checks} going=${going} data=${data} /></h2>
      ${fixable.length > 0 && html`<${Act} kind="first small" disabled=${going} run=${fix}>${t("health.fix", { n: fixable.length })}<//>`}
    </header>
    ${Object.entries(found.fixed).map(([name, words]) => html`<p key=${name} class="notice good"><${Icon} name="check" /><span><${Said} code=${`check.${name}`} words=${name} />: <${Verbatim} words=${words} /></span></p>`)}
    <ul class="findings">${bad.map((each, index) => html`<${Finding} key=${`${each.name}/${index}`} check=${each} />`)}</ul>
    <ul class="wells">
      ${checks.filter((each) => each.status === "ok").map((each, index) => html`<li key=${`${each.name}/${index}`}>
        <${Icon} name="check" /><div class="grow"><strong class="capital"><${Said} code=${`check.${each.name}`} words=${each.name} /></strong><p class="small muted"><${Verbatim} words=${each.detail} /></p></div>
      </li>`)}
    </ul>
  </section>`;
}

/** @param {{checks: Check[], going: boolean, data: any}} props */
function Summary({ checks, going, data }) {
  if (going) return t("health.looking", { done: data.done, total: data.total });
  const errors = checks.filter((each) => each.status === "error").length;
  const warnings = checks.filter((each) => each.status === "warning").length;
  if (errors + warnings === 0) return html`<span class="well"><${Icon} name="check" />${t("health.well", { n: checks.length })}</span>`;
  return [errors && t("health.errors", { n: errors }), warnings && t("health.warnings", { n: warnings })].filter(Boolean).join(t("comma"));
}

/** @param {{check: Check}} props */
function Finding({ check }) {
  const error = check.status === "error";
  return html`<li class=${`notice ${error ? "bad" : "warn"}`}>
    <${Icon} name="alert" />
    <div class="grow">
      <strong><span class="hidden-text">${t(error ? "health.error" : "health.warning")}: </span><span class="capital"><${Said} code=${`check.${check.name}`} words=${check.name} /></span></strong>
      <p><${Verbatim} words=${check.detail} /></p>
      ${check.hint && html`<p class="hint"><${Verbatim} words=${check.hint} /></p>`}
    </div>
  </li>`;
}

