/** A backup as a file: its bytes come with the token, and go straight to the disk where the browser can. */

import { html, useRef, useState } from "../vendor/preact.js";
import { Dialog } from "./dialog.js";
import { size } from "./numbers.js";
import { call } from "./session.js";
import { failed, toast } from "./toasts.js";
import { t } from "./words.js";

/** @typedef {import("./session_list.js").Backup} Backup */

const IN_MEMORY_BYTES = 256 << 20; // larger ones go to the disk as they come, where the browser can

/** @param {{backup: Backup, close: () => void}} props */
export function Export({ backup, close }) {
  const [format, setFormat] = useState("bundle");
  const [done, setDone] = useState(/** @type {number | null} */ (null));
  const stop = useRef(new AbortController());
  const [total, setTotal] = useState(backup.bytes_total);
  const start = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const name = fileName(backup, format);
    setDone(0);
    try {
      const into = await target(name, backup.bytes_total);
      const answer = await call("GET", `/v1/backups/${encodeURIComponent(backup.id)}/export?format=${format}`, undefined, { signal: stop.current.signal });
      setTotal(Number(answer.headers.get("Content-Length")) || backup.bytes_total);
      await into.take(answer, setDone);
      toast(t("export.done", { name }), { kind: "ok" });
      close();
    } catch (error) {
      setDone(null);
      if (!(error instanceof DOMException && error.name === "AbortError")) failed(error);
    }
  };
  return html`<${Dialog} title=${t("export.do")} close=${() => (stop.current.abort(), close())}>
    <form class="stack" onSubmit=${start}>
      ${["bundle", "v1"].map(
        (each) => html`<label key=${each} class="choice">
          <input type="radio" name="format" value=${each} checked=${format === each} disabled=${done !== null} onChange=${() => setFormat(each)} />
          <span><strong>${t(`export.${each}`)}</strong><span class="small muted">${t(`export.${each}_more`)}</span></span>
        </label>`,
      )}
      ${done !== null && html`<progress aria-label=${t("export.do")} max=${total} value=${done}></progress><span class="small muted number">${size(done)} / ${size(total)}</span>`}
      <footer>
        <button type="button" class="button" onClick=${() => (stop.current.abort(), close())}>${t("cancel")}</button>
        <button class="button first" disabled=${done !== null}>${t("export.start")}</button>
      </footer>
    </form>
  <//>`;
}

/** @param {Backup} backup @param {string} format */
function fileName(backup, format) {
  const session = (backup.title || backup.session_id).replace(/[^\p{L}\p{N}._-]+/gu, "-").slice(0, 60);
  return `${session}-${backup.id.slice(-6)}${format === "v1" ? ".v1" : ""}.qwnbak`;
}

/** Return what takes the file. @param {string} name @param {number} bytes */
async function target(name, bytes) {
  const picker = /** @type {any} */ (window).showSaveFilePicker;
  if (picker && bytes > IN_MEMORY_BYTES) {
    const file = await (await picker({ suggestedName: name })).createWritable();
    return {
      take: (/** @type {Response} */ answer, /** @type {(bytes: number) => void} */ told) => counted(answer, told).pipeTo(file),
    };
  }
  return {
    take: async (/** @type {Response} */ answer, /** @type {(bytes: number) => void} */ told) => {
      const url = URL.createObjectURL(await new Response(counted(answer, told)).blob());
      Object.assign(document.createElement("a"), { href: url, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    },
  };
}

/** @param {Response} answer @param {(bytes: number) => void} told @returns {ReadableStream<Uint8Array<ArrayBuffer>>} */
function counted(answer, told) {
  let bytes = 0;
  const body = /** @type {ReadableStream<Uint8Array<ArrayBuffer>>} */ (answer.body);
  return body.pipeThrough(
    new TransformStream({
      transform(chunk, out) {
        told((bytes += chunk.byteLength));
        out.enqueue(chunk);
      },
    }),
  );
}
