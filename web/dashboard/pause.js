/** The choice of how long to pause the second copy. */

import { html, useState } from "../vendor/preact.js";
import { Dialog } from "./dialog.js";
import { Icon } from "./icons.js";
import { changed } from "./live.js";
import { json } from "./session.js";
import { failed, toast } from "./toasts.js";
import { t } from "./words.js";

const LENGTHS = /** @type {[string, number | null][]} */ ([["half_hour", 1800], ["hour", 3600], ["open", null]]);

export function Pause() {
  const [asking, ask] = useState(false);
  /** @param {number | null} seconds */
  const pause = async (seconds) => {
    ask(false);
    try {
      await json("POST", "/v1/sync/pause", { seconds });
      toast(t("sync.paused_now"), { kind: "ok" });
      changed();
    } catch (error) {
      failed(error);
    }
  };
  return html`<button class="button" aria-haspopup="dialog" onClick=${() => ask(true)}><${Icon} name="pause" />${t("sync.pause")}</button>
    ${asking &&
    html`<${Dialog} title=${t("sync.pause")} close=${() => ask(false)}>
      <p>${t("sync.pause_more")}</p>
      <div class="choices">
        ${LENGTHS.map(([name, seconds]) => html`<button key=${name} class="button" onClick=${() => pause(seconds)}>${t(`sync.pause.${name}`)}</button>`)}
      </div>
    <//>`}`;
}
