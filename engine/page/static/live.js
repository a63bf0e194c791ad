/* Keeps the parts of a page up to date that change while runs are running. Such a part names its address in `data-live`; the
   answer is the part as it is now, and it names an address again for as long as it may change. */
"use strict";
(() => {
  const EVERY_MS = 2000;

  async function now(part) {
    const answer = await fetch(part.dataset.live, { credentials: "same-origin" });
    if (!answer.ok) throw new Error(answer.statusText);
    const holder = document.createElement("template");
    holder.innerHTML = await answer.text(); // from our own server, which escapes all data
    return holder.content.firstElementChild;
  }

  function follow(part, before) {
    setTimeout(async () => {
      if (!part.isConnected) return;
      let shown = part;
      let text = before;
      if (!document.hidden) {
        try {
          const next = await now(part);
          text = next.outerHTML;
          if (text !== before) {
            // What is being read or used is not pulled away: it is replaced when it is left.
            if (!part.contains(document.activeElement)) {
              part.replaceWith(next);
              shown = next;
              document.dispatchEvent(new CustomEvent("live", { detail: next }));
            } else {
              text = before;
            }
          }
          delete shown.dataset.lost;
        } catch {
          part.dataset.lost = ""; // the page was stopped; it may come back
        }
      }
      if (shown.dataset.live) follow(shown, text);
    }, EVERY_MS);
  }

  for (const part of document.querySelectorAll("[data-live]")) follow(part, "");
})();
