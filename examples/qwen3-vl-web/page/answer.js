/** The model server: what is asked of it, and answers that come a piece at a time. */

/** What the server says when it refuses (RFC 9457); `away` where nobody answers at all. */
export class Refusal extends Error {
  constructor({ detail = "The model server does not answer.", code = "away", status = 0, hint = "" } = {}) {
    super([detail, hint].filter(Boolean).join(" "));
    Object.assign(this, { code, status, away: status === 0 });
  }
}

/** Ask the server; with a `body`, post it as JSON. Raises: Refusal. */
export async function ask(path, body) {
  const posted = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body ?? {}) };
  const response = await fetch(path, body === undefined ? {} : posted).catch(() => {
    throw new Refusal();
  });
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const detail = typeof problem.detail === "string" ? problem.detail : `The server says ${response.status}.`;
  throw new Refusal({ ...problem, detail, status: response.status });
}

/** Yield the pieces of an answer: `{text}`, at last `{message}`. Raises: Refusal. */
export async function* pieces(response) {
  let rest = "";
  let whole = false;
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  for (;;) {
    const { value, done } = await reader.read().catch(() => ({ done: true }));
    if (done && whole) return;
    if (done) throw new Refusal(); // the server is gone
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    for (const piece of lines.map((line) => JSON.parse(line))) {
      if (piece.problem) throw new Refusal(piece.problem);
      whole = Boolean(piece.message); // which is the last
      yield piece;
    }
  }
}
