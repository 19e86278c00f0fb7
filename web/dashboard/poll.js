/** Asking again and again while something moves of which no event tells; only while somebody looks. */

import { useEffect } from "../vendor/preact.js";

/** @param {() => void} ask @param {number} every_ms @param {boolean} moving */
export function usePoll(ask, every_ms, moving) {
  useEffect(() => {
    if (!moving) return undefined;
    const timer = setInterval(() => document.visibilityState === "visible" && ask(), every_ms);
    return () => clearInterval(timer);
  }, [every_ms, moving]);
}
