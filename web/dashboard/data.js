/** Data of the daemon in components: loaded, kept while it is loaded again, and what stands in its place until then. */

import { html, useCallback, useEffect, useRef, useState } from "../vendor/preact.js";
import { Icon } from "./icons.js";
import { onChange } from "./live.js";
import { inWords } from "./toasts.js";
import { t } from "./words.js";

/**
 * Load something, again whenever `keys` change, and with `live` when the daemon has news. The old data stays until the
 * new is there; of two loads under way, the later one counts.
 * @template T @param {(signal: AbortSignal) => Promise<T>} load @param {any[]} keys @param {{live?: boolean}} [how]
 * @returns {{data: T | undefined, error: unknown, loading: boolean, reload: () => Promise<void>}}
 */
export function useData(load, keys, { live = true } = {}) {
  const [state, setState] = useState(/** @type {{data: T | undefined, error: unknown, loading: boolean}} */ ({ data: undefined, error: null, loading: true }));
  const latest = useRef(load);
  latest.current = load;
  const running = useRef(/** @type {AbortController | null} */ (null));
  const reload = useCallback(async () => {
    running.current?.abort();
    const mine = (running.current = new AbortController());
    setState((before) => ({ ...before, loading: true }));
    try {
      const data = await latest.current(mine.signal);
      if (!mine.signal.aborted) setState({ data, error: null, loading: false });
    } catch (error) {
      if (!mine.signal.aborted) setState((before) => ({ ...before, error, loading: false }));
    }
  }, []);
  useEffect(() => {
    setState({ data: undefined, error: null, loading: true });
    reload();
    return () => running.current?.abort();
  }, keys);
  useEffect(() => (live ? onChange(reload) : undefined), [live]);
  return { ...state, reload };
}

/** What went wrong, and a way to try it again. @param {{error: unknown, retry?: () => void}} props */
export function Failed({ error, retry }) {
  const { text, more } = inWords(error);
  return html`<div class="notice bad" role="alert">
    <${Icon} name="alert" />
    <div class="grow"><strong>${text}</strong>${more && html`<p>${more}</p>`}</div>
    ${retry && html`<button class="button small" onClick=${retry}>${t("retry")}</button>`}
  </div>`;
}

/** Nothing is there, and what to do about it. @param {{icon: string, title: string, children?: any}} props */
export function Empty({ icon, title, children }) {
  return html`<div class="empty"><${Icon} name=${icon} /><h2>${title}</h2>${children}</div>`;
}

/** Room for what is loading, as high as it will be about. @param {{lines?: number}} props */
export function Waiting({ lines = 3 }) {
  return html`<div class="waiting" role="status" aria-label=${t("wait")}>
    ${Array.from({ length: lines }, (_, index) => html`<span key=${index} class="bone"></span>`)}
  </div>`;
}
