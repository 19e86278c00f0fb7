/** A list of any length: only the rows that are seen are there, all equally high. One stop for Tab; arrows move in it. */

import { html, useEffect, useLayoutEffect, useRef, useState } from "../vendor/preact.js";

const BEYOND = 5; // rows that are there beyond those that are seen

/**
 * @typedef {object} ListProps
 * @property {string} label its accessible name
 * @property {number} count of rows
 * @property {number} height of a row, in rem
 * @property {(index: number, focusable: boolean) => any} row draws one; what takes the focus in it has `data-row`
 * @property {number} [cursor] the row that Tab comes to and that is scrolled into sight when it changes
 * @property {(first: number, last: number) => void} [seen] told which rows are drawn
 * @property {(index: number) => void} [moved] told where the arrow keys went
 * @property {string} [class]
 */

/** @param {ListProps} props */
export function VirtualList(props) {
  const { label, count, cursor = 0, seen } = props;
  const place = useRef(/** @type {HTMLElement | null} */ (null));
  const [view, setView] = useState({ top: 0, height: innerHeight });
  const height = props.height * rem();
  const first = Math.max(Math.floor(view.top / height) - BEYOND, 0);
  const last = Math.min(Math.ceil((view.top + view.height) / height) + BEYOND, count);
  const focus = useRef(-1); // the row that takes the focus when it is drawn

  useLayoutEffect(() => {
    const element = place.current;
    if (!element) return;
    const look = () => setView((before) => same(before, element) ?? { top: element.scrollTop, height: element.clientHeight });
    const watcher = new ResizeObserver(look);
    watcher.observe(element);
    element.addEventListener("scroll", look, { passive: true });
    return () => (watcher.disconnect(), element.removeEventListener("scroll", look));
  }, []);
  useEffect(() => seen?.(first, last), [first, last, count]);
  useLayoutEffect(() => {
    if (place.current) intoSight(place.current, cursor, height);
  }, [cursor, count > 0]);
  useLayoutEffect(() => {
    if (focus.current < 0) return;
    const row = /** @type {HTMLElement | null} */ (place.current?.querySelector(`[data-index="${focus.current}"] [data-row]`) ?? null);
    if (row) (row.focus({ preventScroll: true }), (focus.current = -1));
  });

  const moves = (/** @type {KeyboardEvent} */ event) => {
    const step = steps(event.key, Math.max(Math.floor(view.height / height) - 1, 1));
    const from = indexOf(event.target) ?? cursor;
    if (step === 0 || !count) return;
    event.preventDefault();
    const to = Math.min(Math.max(from + step, 0), count - 1);
    focus.current = to;
    if (place.current) intoSight(place.current, to, height);
    props.moved?.(to);
    setView((before) => ({ ...before })); // draws, and so focuses
  };
  const within = cursor >= first && cursor < last ? cursor : first;
  return html`<div class=${`virtual ${props.class ?? ""}`} ref=${place} onKeyDown=${moves}>
    <ul aria-label=${label} style=${{ height: `${count * height}px` }}>
      ${Array.from({ length: Math.max(last - first, 0) }, (_, at) => first + at).map(
        (index) => html`<li
          key=${index}
          data-index=${index}
          aria-setsize=${count}
          aria-posinset=${index + 1}
          style=${{ height: `${height}px`, transform: `translateY(${index * height}px)` }}
        >
          ${props.row(index, index === within)}
        </li>`,
      )}
    </ul>
  </div>`;
}

/** @param {{top: number, height: number}} before @param {HTMLElement} element */
function same(before, element) {
  return before.top === element.scrollTop && before.height === element.clientHeight ? before : null;
}

/** Scroll as little as it takes. @param {HTMLElement} element @param {number} index @param {number} height */
function intoSight(element, index, height) {
  const top = index * height;
  if (top < element.scrollTop) element.scrollTop = top;
  else if (top + height > element.scrollTop + element.clientHeight) element.scrollTop = top + height - element.clientHeight;
}

/** @param {string} key @param {number} page */
function steps(key, page) {
  /** @type {Record<string, number>} */
  const known = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
  return known[key] ?? 0;
}

/** @param {EventTarget | null} target */
function indexOf(target) {
  const row = target instanceof Element ? target.closest("[data-index]") : null;
  return row ? Number(/** @type {HTMLElement} */ (row).dataset.index) : null;
}

/** The size of one rem in pixels. */
export function rem() {
  return parseFloat(getComputedStyle(document.documentElement).fontSize);
}
