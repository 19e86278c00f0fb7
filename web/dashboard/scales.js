/** Scales of charts: round steps for counts and for sizes, and which labels fit. Pure. */

const ROUND = [1, 2, 2.5, 5, 10];
const ROUND_BINARY = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/**
 * Return round values from 0 up to one that is at least `most`: 0, 5, 10, 15.
 * @param {number} most @param {number} steps about how many @param {boolean} [binary] whether they are sizes in bytes
 * @returns {number[]}
 */
export function ticks(most, steps, binary = false) {
  const step = binary ? binaryStep(most / steps) : decimalStep(most / steps);
  const found = [0];
  while (found[found.length - 1] < most) found.push(found.length * step);
  return found.length > 1 ? found : [0, step];
}

/** @param {number} least @returns {number} a round number of things, 1 or more */
function decimalStep(least) {
  if (least <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(least));
  const step = /** @type {number} */ (ROUND.find((each) => each * power >= least)) * power;
  return Math.ceil(step); // 2.5 of ones would be a part of a thing
}

/** @param {number} least @returns {number} a power of two of its unit, 1 byte or more */
function binaryStep(least) {
  let unit = 1;
  while (least / unit > 1024) unit *= 1024;
  return /** @type {number} */ (ROUND_BINARY.find((each) => each * unit >= least)) * unit;
}

/**
 * Return every how many-th of `n` labels is written, so that each has at least `room` pixels of `width`.
 * @param {number} n @param {number} width @param {number} room
 */
export function every(n, width, room) {
  return Math.max(1, Math.ceil((n * room) / Math.max(width, 1)));
}
