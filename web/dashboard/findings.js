/** How many findings of the doctor somebody should see to, as of its newest examination. */

import { signal } from "../vendor/preact.js";

export const findings = signal(0);
