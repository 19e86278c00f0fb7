/** Ids that sort by time: the id of a state in this page is the id of the backup that it becomes. */

const DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"; // Crockford's base 32

/**
 * Make a ULID: 48 bits of time in milliseconds, 80 bits of chance.
 * @param {number} now
 * @param {Uint8Array} [chance] 10 bytes
 * @returns {string}
 */
export function ulid(now, chance = crypto.getRandomValues(new Uint8Array(10))) {
  let rest = BigInt(Math.max(0, Math.floor(now)));
  for (const byte of chance) rest = (rest << 8n) | BigInt(byte);
  let text = "";
  for (let n = 0; n < 26; n += 1, rest >>= 5n) text = DIGITS[Number(rest & 31n)] + text;
  return text;
}

/** Return the time of a ULID in milliseconds. @param {string} id */
export function timeOf(id) {
  return [...id.slice(0, 10)].reduce((sum, digit) => sum * 32 + DIGITS.indexOf(digit), 0);
}
