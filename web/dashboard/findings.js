/** How many findings of the doctor somebody should see to, as of its newest examination. */

import { effect, signal } from "../vendor/preact.js";
import { json, Problem, signedIn } from "./session.js";

export const findings = signal(0);

/** Take the count of an examination that is done. @param {{state: string, counts: {warning: number, error: number}}} doctor */
export function countFindings(doctor) {
  if (doctor.state === "done") findings.value = doctor.counts.warning + doctor.counts.error;
}

/** Ask once, when the tab is signed in, what the newest examination found. Nothing is looked at for that. */
export function lookForFindings() {
  effect(() => void (signedIn.value && ask()));
}

async function ask() {
  try {
    countFindings(await json("GET", "/v1/doctor"));
  } catch (error) {
    if (!(error instanceof Problem || error instanceof TypeError)) throw error; // the banner tells of a daemon that is away
  }
}
