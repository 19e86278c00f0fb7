/** Small drawings, 20 by 20, in the colour of the text. They are decoration: what they mean stands beside them in words. */

import { html } from "../vendor/preact.js";

/** @type {Record<string, string>} */
const PATHS = {
  sessions: "M3 5.5A2.5 2.5 0 0 1 5.5 3h9A2.5 2.5 0 0 1 17 5.5v6a2.5 2.5 0 0 1-2.5 2.5H9l-4 3v-3.1A2.5 2.5 0 0 1 3 11.5z M6.5 7h7 M6.5 10h4.5",
  storage: "M3 5c0-1.4 3.1-2.5 7-2.5S17 3.600 17 5 13.900 7.500 10 7.500 3 6.400 3 5z M3 5v10c0 1.400 3.100 2.500 7 2.500s7-1.100 7-2.500V5 M3 10c0 1.400 3.100 2.500 7 2.500s7-1.100 7-2.500",
  sync: "M6 15.500a4 4 0 0 1-.6-7.950 5 5 0 0 1 9.600 1.200A3.400 3.400 0 0 1 14.500 15.500 M10 17v-6 M7.500 13 10 10.500 12.500 13",
  health: "M2.500 10.500h3l2-5 3.500 9 2.200-5.500.8 1.500h3.500",
  access: "M12.500 3a4.500 4.500 0 1 1-4 6.600L3 15v2h3v-2h2v-2h1.500l1.200-1.300 M13.500 6.500h.01",
  settings: "M3 6h7 M14 6h3 M3 14h3 M10 14h7 M12 4v4 M8 12v4",
  search: "M8.500 3a5.500 5.500 0 1 1 0 11 5.500 5.500 0 0 1 0-11z M12.500 12.500 17 17",
  close: "M5 5l10 10 M15 5 5 15",
  check: "M4 10.500l4 4 8-9",
  alert: "M10 3 1.800 17h16.400z M10 8v4 M10 14.500h.01",
  info: "M10 2.500a7.500 7.500 0 1 1 0 15 7.500 7.500 0 0 1 0-15z M10 9v5 M10 6.200h.01",
  pin: "M7 3h6 M8 3v5l-2.500 3.500h9L12 8V3 M10 11.500V17",
  rename: "M4 16l.8-3.300L13.500 4l2.500 2.500-8.700 8.700z M11.700 5.800l2.500 2.500",
  remove: "M4 5.500h12 M8 5.500V3.500h4v2 M5.500 5.500l.8 11h7.400l.8-11 M8.500 8.500v5 M11.500 8.500v5",
  download: "M10 3v9 M6.500 9 10 12.500 13.500 9 M3.500 16.500h13",
  upload: "M10 12.500v-9 M6.500 7 10 3.500 13.500 7 M3.500 16.500h13",
  restore: "M4 10a6 6 0 1 1 1.900 4.400 M4 5v5h5",
  fork: "M6 3v14 M6 12c0-3.500 8-2 8-6 M14 6V4 M4.500 3h3 M12.500 3h3",
  back: "M12 4 6 10l6 6",
  next: "M8 4l6 6-6 6",
  theme: "M15.500 12.500A6.500 6.500 0 0 1 7.500 4a6.500 6.500 0 1 0 8 8.500z",
  sun: "M10 6.500a3.500 3.500 0 1 1 0 7 3.500 3.500 0 0 1 0-7z M10 2v1.500 M10 16.500V18 M2 10h1.500 M16.500 10H18 M4.300 4.300l1.100 1.100 M14.600 14.600l1.100 1.100 M4.300 15.700l1.100-1.100 M14.600 5.400l1.100-1.100",
  system: "M3 4h14v9.500H3z M7.500 17h5 M10 13.500V17",
  language: "M10 2.500a7.500 7.500 0 1 1 0 15 7.500 7.500 0 0 1 0-15z M2.500 10h15 M10 2.500c5 4.500 5 10.500 0 15 M10 2.500c-5 4.500-5 10.500 0 15",
  keyboard: "M2.500 5.500h15v9h-15z M5.500 8.500h.01 M8.500 8.500h.01 M11.500 8.500h.01 M14.500 8.500h.01 M6.500 11.500h7",
  leave: "M8 4H4v12h4 M8 10h9 M13.500 6.500 17 10l-3.500 3.500",
  copy: "M7 7h9v9H7z M4 13V4h9",
  image: "M3 4h14v12H3z M3 13.500l4-4 3.500 3.500 2.500-2.500 4 4 M13 7.500h.01",
  pause: "M7 4.500v11 M13 4.500v11",
  play: "M6 4l10 6-10 6z",
  cloud: "M6 15.500a4 4 0 0 1-.6-7.950 5 5 0 0 1 9.600 1.200A3.400 3.400 0 0 1 14.500 15.500z",
  disk: "M3 5.500h14v9H3z M6 11.500h3 M13.500 11.500h.01",
  moon: "M15.500 12.500A6.500 6.500 0 0 1 7.500 4a6.500 6.500 0 1 0 8 8.500z",
  folder: "M2.500 5h5l1.500 2h8.500v9h-15z",
  clock: "M10 2.500a7.500 7.500 0 1 1 0 15 7.500 7.500 0 0 1 0-15z M10 5.500V10l3 2",
};

/** @param {{name: string}} props */
export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 20 20" width="20" height="20" aria-hidden="true" focusable="false">
    <path d=${PATHS[name]} />
  </svg>`;
}

/** The mark of Torpor: a moon in the night. */
export function Mark() {
  return html`<svg class="mark" viewBox="0 0 22 22" width="28" height="28" aria-hidden="true" focusable="false">
    <circle cx="11" cy="11" r="10" fill="#1f3a5f" />
    <path d="M14.5 15.5A6 6 0 0 1 8 6a6 6 0 1 0 6.500 9.500Z" fill="#f4d58d" />
  </svg>`;
}
