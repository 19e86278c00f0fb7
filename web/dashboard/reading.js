/** Reading everything again: the scrub in the background, and a verification of everything at once. */

import { html, useState } from "../vendor/preact.js";
import { Act } from "./act.js";
import { useData } from "./data.js";
import { Icon } from "./icons.js";
import { count, lasting, percent, size } from "./numbers.js";
import { usePoll } from "./poll.js";
import { Verbatim } from "./said.js";
import { json } from "./session.js";
import { Time } from "./states.js";
import { t } from "./words.js";

const LOOK_MS = 1000;

export function Reading() {
  return html`<div class="cards reading"><${Scrub} /><${Verification} /></div>`;
}

function Scrub() {
  const { data: scrub, reload } = useData((signal) => json("GET", "/v1/scrub", undefined, { signal }), []);
  usePoll(reload, LOOK_MS, scrub?.state === "running");
  const begin = async () => {
    await json("POST", "/v1/scrub");
    reload();
  };
  return html`<section class="card" aria-labelledby="scrub">
    <header><h2 id="scrub" class="grow">${t("scrub.title")}</h2>${scrub && html`<span class=${`chip ${scrub.damaged_blobs ? "bad" : ""}`}>${t(`scrub.${scrub.state}`)}</span>`}</header>
    <p class="muted">${t("scrub.more")}</p>
    ${scrub &&
    html`<dl class="facts">
        ${scrub.began_at && html`<dt>${t("scrub.began")}</dt><dd><${Time} at=${scrub.began_at} /></dd>`}
        <dt>${t("scrub.read")}</dt><dd>${size(scrub.read_bytes)}${scrub.left_bytes ? ` · ${t("scrub.left", { size: size(scrub.left_bytes), time: lasting(scrub.left_bytes / Math.max(scrub.rate_bytes_s, 1)) })}` : ""}</dd>
        <dt>${t("scrub.found")}</dt><dd>${t("scrub.counts", { sound: count(scrub.sound), healed: count(scrub.healed), damaged: count(scrub.damaged) })}</dd>
        ${scrub.quarantine_bytes > 0 && html`<dt>${t("class.quarantine")}</dt><dd>${size(scrub.quarantine_bytes)}</dd>`}
      </dl>
      ${scrub.trouble && html`<p class="notice warn"><${Icon} name="alert" /><span><${Verbatim} words=${scrub.trouble} /></span></p>`}
      ${scrub.state !== "running" && scrub.state !== "off" && html`<p><${Act} kind="small" run=${begin} done=${() => t("scrub.begun")}>${t("scrub.begin")}<//></p>`}`}
  </section>`;
}

function Verification() {
  const [id, setId] = useState("");
  const { data: run, reload } = useData((signal) => (id ? json("GET", `/v1/verify/${id}`, undefined, { signal }) : Promise.resolve(null)), [id], { live: false });
  const going = run?.state === "running";
  usePoll(reload, LOOK_MS, going);
  const begin = async () => setId((await json("POST", "/v1/verify", {})).id);
  const end = async () => {
    await json("DELETE", `/v1/verify/${id}`);
    reload();
  };
  return html`<section class="card" aria-labelledby="verify">
    <header><h2 id="verify" class="grow">${t("verify.title")}</h2></header>
    <p class="muted">${t("verify.more")}</p>
    ${run && html`<${Progress} run=${run} />`}
    <p>${going ? html`<${Act} kind="small" run=${end}>${t("verify.end")}<//>` : html`<${Act} kind="small" icon="check" run=${begin}>${t("verify.begin")}<//>`}</p>
  </section>`;
}

/** @param {{run: Record<string, any>}} props */
function Progress({ run }) {
  const part = run.bytes ? run.bytes_done / run.bytes : run.state === "running" ? 0 : 1;
  const kind = run.damaged || run.problem ? "bad" : run.unsure ? "warn" : "good";
  return html`<div class="running" role="status">
    <progress max="1" value=${part} aria-label=${t("verify.title")}>${percent(part)}</progress>
    <p class="small muted number">${size(run.bytes_done)} / ${size(run.bytes)}</p>
    ${run.state !== "running" && html`<p class=${`notice ${kind}`}><${Icon} name=${kind === "good" ? "check" : "alert"} /><span>${t("verify.result", { blobs: count(run.blobs), healed: count(run.healed), damaged: count(run.damaged) })}</span></p>`}
    ${run.problem && html`<p class="notice bad"><${Verbatim} words=${run.problem.detail} /></p>`}
  </div>`;
}
