/** Asking again and again while something moves of which no event tells; only while somebody looks. */

import { useEffect } from "../vendor/preact.js";

/**
 * The next question waits for the answer to the last one: a daemon that is slow is not asked more.
 * @param {() => unknown} ask @param {number} every_ms @param {boolean} moving
 */
export function usePoll(ask, every_ms, moving) {
  useEffect(() => {
    if (!moving) return undefined;
    let timer = 0;
    const again = () => (timer = setTimeout(look, every_ms));
    const look = async () => {
      if (document.visibilityState === "visible") await ask();
      if (timer) again();
    };
    again();
    return () => {
      clearTimeout(timer);
      timer = 0;
    };
  }, [every_ms, moving]);
}
