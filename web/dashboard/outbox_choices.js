/** What the user has chosen of the second copy: how fast it goes, and whether KV caches go up. */

import { html, useState } from "../vendor/preact.js";
import { changed } from "./live.js";
import { json } from "./session.js";
import { failed, toast } from "./toasts.js";
import { size } from "./numbers.js";
import { t } from "./words.js";

const MIB = 1 << 20;
const POLICIES = ["auto", "always", "never"];

/** @param {string} text @returns {number | null} bytes; an empty field is no limit */
const bytesOf = (text) => (text.trim() === "" ? null : Math.round(Number(text) * MIB));
/** @param {number | null} bytes */
const shown = (bytes) => (bytes === null ? "" : String(Math.round((bytes / MIB) * 100) / 100));

/** @param {{sync: Record<string, any>}} props */
export function Choices({ sync }) {
  const [up, setUp] = useState(shown(sync.limits.up));
  const [down, setDown] = useState(shown(sync.limits.down));
  const [kv, setKv] = useState(/** @type {string} */ (sync.kv_policy));
  const [daily, setDaily] = useState(shown(sync.kv_daily_bytes));
  /** @param {Event} event */
  const save = async (event) => {
    event.preventDefault();
    try {
      await json("PUT", "/v1/sync/limits", { up: bytesOf(up), down: bytesOf(down) });
      await json("PUT", "/v1/sync/policy", { kv, daily_bytes: bytesOf(daily) });
      toast(t("kept"), { kind: "ok" });
      changed();
    } catch (error) {
      failed(error);
    }
  };
  return html`<form class="card choices-form" onSubmit=${save}>
    <header><h2>${t("sync.choices")}</h2></header>
    <div class="fields">
      <${Amount} label=${t("sync.up")} unit=${t("mib_s")} value=${up} set=${setUp} />
      <${Amount} label=${t("sync.down")} unit=${t("mib_s")} value=${down} set=${setDown} />
      <label>
        <span>${t("sync.kv")}</span>
        <select value=${kv} onChange=${(/** @type {any} */ event) => setKv(event.currentTarget.value)}>
          ${POLICIES.map((each) => html`<option key=${each} value=${each}>${t(`sync.kv.${each}`)}</option>`)}
        </select>
      </label>
      <${Amount} label=${t("sync.daily")} unit="MiB" value=${daily} set=${setDaily} />
    </div>
    <p class="small muted">${t("sync.kv_more")} ${t("sync.kv_used", { size: size(sync.kv_used_today) })}</p>
    <div><button class="button">${t("save")}</button></div>
  </form>`;
}

/** @param {{label: string, unit: string, value: string, set: (value: string) => void}} props */
function Amount({ label, unit, value, set }) {
  return html`<label>
    <span>${label}</span>
    <span class="amount">
      <input type="number" min="0.01" step="any" inputmode="decimal" placeholder=${t("no_limit")} value=${value} onInput=${(/** @type {any} */ event) => set(event.currentTarget.value)} />
      <small>${unit}</small>
    </span>
  </label>`;
}
