/** How wide an element is, in CSS pixels, as long as it is there: charts are drawn at their true size, so text stays text. */

import { useLayoutEffect, useRef, useState } from "../vendor/preact.js";

/** @returns {[import("../vendor/preact.js").Ref<HTMLElement | null>, number]} the element's ref, and its width; 0 at first */
export function useWidth() {
  const place = useRef(/** @type {HTMLElement | null} */ (null));
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const element = /** @type {HTMLElement} */ (place.current);
    const look = () => setWidth(Math.floor(element.getBoundingClientRect().width)); // clientWidth may be half a pixel too wide
    look();
    const watch = new ResizeObserver(look);
    watch.observe(element);
    return () => watch.disconnect();
  }, []);
  return [place, width];
}
