/** The frame around the pages: navigation, how the daemon is, theme and language, and the page of the address. */

import { html, signal, useEffect, useState } from "../vendor/preact.js";
import { Failed, Waiting } from "./data.js";
import { Icon, Mark } from "./icons.js";
import { DropPlace } from "./imports.js";
import { KeyList, listed, useKeys } from "./keys.js";
import { link } from "./live.js";
import { LISTED, PAGES } from "./pages.js";
import { go, href, route } from "./routes.js";
import { signedIn, signOut } from "./session.js";
import { Standing } from "./standing.js";
import { nextTheme, theme } from "./theme.js";
import { Toasts } from "./toasts.js";
import { LANGUAGES, language, says, speak, t } from "./words.js";

/** Why this tab is not signed in, where that is known: a phrase, or what the daemon says. */
export const why = signal("");

/** The whole dashboard. */
export function Shell() {
  useEffect(() => {
    document.title = signedIn.value ? `${t(`nav.${entry().name}`)} · Torpor` : "Torpor";
  });
  return html`${signedIn.value ? html`<${Frame} />` : html`<${SignedOut} />`}<${Toasts} /><${KeyList} />`;
}

/** The page of the address; an unknown one is the first. */
function entry() {
  return PAGES.find((each) => each.name === route.value.page) ?? PAGES[0];
}

function Frame() {
  useKeys({
    "?": () => (listed.value = true),
    t: nextTheme,
    ...Object.fromEntries(LISTED.map((each, index) => [String(index + 1), () => go(href(each.name))])),
  });
  return html`<div class="frame">
    <a class="skip" href="#content" onClick=${skip}>${t("nav.skip")}</a>
    <header class="top">
      <a class="brand" href=${href("sessions")}><${Mark} /><span>Torpor</span></a>
      <${Navigation} />
      <${Standing} />
      <${Tools} />
    </header>
    <main id="content" tabindex="-1"><${Lost} /><${Current} /></main>
    <${DropPlace} />
  </div>`;
}

/** Follow a link into the page itself: the part behind `#` is the route's. @param {Event} event */
function skip(event) {
  event.preventDefault();
  document.getElementById("content")?.focus();
}

function Navigation() {
  return html`<nav class="pages" aria-label=${t("nav.label")}>
    ${LISTED.map((each) => {
      const waiting = each.badge?.() ?? 0;
      return html`<a key=${each.name} href=${href(each.name)} aria-current=${each === entry() ? "page" : undefined}>
        <${Icon} name=${each.icon} /><span>${t(`nav.${each.name}`)}</span>
        ${waiting > 0 && html`<b class="badge">${waiting}</b>`}
      </a>`;
    })}
  </nav>`;
}

const THEME_ICONS = { system: "system", light: "sun", dark: "theme" };

function Tools() {
  return html`<div class="tools">
    <div class="line-of-link">
      <${Link} />
      <button class="plain" title=${t("sign.out")} aria-label=${t("sign.out")} onClick=${signOut}><${Icon} name="leave" /></button>
    </div>
    <button class="plain" title=${t(`theme.${theme.value}`)} aria-label=${t(`theme.${theme.value}`)} onClick=${nextTheme}>
      <${Icon} name=${THEME_ICONS[theme.value]} />
    </button>
    <label class="language" title=${t("language.label")}>
      <${Icon} name="language" />
      <select aria-label=${t("language.label")} value=${language.value} onChange=${chosen}>
        ${Object.entries(LANGUAGES).map(([code, name]) => html`<option key=${code} value=${code} lang=${code}>${name}</option>`)}
      </select>
    </label>
    <button class="plain wide-only" title=${t("keys.open")} aria-label=${t("keys.open")} onClick=${() => (listed.value = true)}>
      <${Icon} name="keyboard" />
    </button>
  </div>`;
}

/** @param {Event} event */
function chosen(event) {
  speak(/** @type {import("./words.js").Language} */ (/** @type {HTMLSelectElement} */ (event.currentTarget).value));
}

const LINK_WORDS = { live: "live.on", connecting: "live.connecting", lost: "live.lost" };

function Link() {
  return html`<span class=${`link ${link.value}`} role="status"><i></i><span>${t(LINK_WORDS[link.value])}</span></span>`;
}

function Lost() {
  if (link.value !== "lost") return null;
  return html`<div class="notice warn lost" role="alert">
    <${Icon} name="alert" />
    <div class="grow"><strong>${t("live.lost")}</strong><p>${t("live.lost_more")}</p></div>
  </div>`;
}

/** @type {Map<string, any>} */
const loaded = new Map();

/** Load the page of the address. What fails is said when it is shown. */
export async function prepare() {
  const { name, load } = entry();
  await load().then((module) => loaded.set(name, module.Page), () => null);
}

/** The page of the address, once its module is there. */
function Current() {
  const { name, load } = entry();
  const [error, setError] = useState(/** @type {unknown} */ (null));
  const [, drawn] = useState("");
  const Page = loaded.get(name);
  const fetchPage = () => {
    setError(null);
    load().then((module) => (loaded.set(name, module.Page), drawn(name)), setError);
  };
  useEffect(() => void (Page || fetchPage()), [name]);
  if (Page) return html`<${Page} key=${name} />`;
  return html`<div class="page">${error ? html`<${Failed} error=${error} retry=${fetchPage} />` : html`<${Waiting} />`}</div>`;
}

function SignedOut() {
  return html`<main class="signed-out">
    <${Mark} />
    <h1>${t("signed_out.title")}</h1>
    ${why.value && html`<p class="notice warn"><${Icon} name="alert" />${says(why.value) ? t(why.value) : why.value}</p>`}
    <p>${t("signed_out.how")}</p>
    <p><code class="command">torpor open</code></p>
    <p class="muted">${t("signed_out.safe")}</p>
  </main>`;
}
