// Fetches the page again when the broker says that something has changed, and puts only the content in place.
"use strict";

const content = () => document.getElementById("content");
const live = () => document.getElementById("live");

// Whoever is about to confirm or to type is not disturbed.
const busy = () => content().querySelector("details[open]") !== null
  || content().contains(document.activeElement) && /INPUT|SELECT|TEXTAREA/.test(document.activeElement.tagName)
  || content().querySelector("[role=alert]") !== null;

async function draw() {
  if (busy()) return;
  const answer = await fetch(location.href, { credentials: "same-origin", headers: { Accept: "text/html" } });
  if (!answer.ok) { location.reload(); return; }
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("content");
  if (fresh === null || busy()) return;
  const focused = document.activeElement instanceof HTMLAnchorElement ? document.activeElement.getAttribute("href") : null;
  content().replaceChildren(...fresh.childNodes);
  if (focused !== null) content().querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

const stream = new EventSource(document.querySelector(".wordmark").getAttribute("href") + "dashboard/live");
stream.addEventListener("open", () => { live().textContent = "Live"; live().className = "live on"; });
stream.addEventListener("error", () => { live().textContent = "The broker does not answer; trying again"; live().className = "live off"; });
stream.addEventListener("changed", () => { draw().catch(() => undefined); });
