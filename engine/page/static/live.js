/* Keeps the parts of a page up to date that change while runs are running. Such a part names its address in `data-live`; the
   answer is the part as it is now, and it names an address again for as long as it may change. Of the part's children, only
   those that changed are replaced. */
"use strict";
(() => {
  const EVERY_MS = 2000;
  const served = new WeakMap(); // child of a part -> its HTML as it came, which scripts change

  async function now(part) {
    const answer = await fetch(part.dataset.live, { credentials: "same-origin" });
    if (!answer.ok) throw new Error(answer.statusText);
    const holder = document.createElement("template");
    holder.innerHTML = await answer.text(); // from our own server, which escapes all data
    return holder.content.firstElementChild;
  }

  const name = (child) => child.id || child.getAttribute("aria-labelledby") || child.getAttribute("aria-label") || child.localName;

  /* What the keyboard is in, and what is being selected, is not pulled away. */
  function isHeld(child) {
    const selection = document.getSelection();
    return child.querySelector(":focus-visible") !== null || (!selection.isCollapsed && selection.containsNode(child, true));
  }

  const named = (within, selector, text, of) => [...within.querySelectorAll(selector)].find((each) => of(each) === text);
  const label = (each) => each.getAttribute("aria-label") ?? each.getAttribute("href");

  /* Puts a child in the place of an earlier one, and leaves what was scrolled, opened and focused as it was. */
  function replace(before, after) {
    const focused = before.contains(document.activeElement) ? document.activeElement : null;
    const scrolled = [...before.querySelectorAll("[role=region]")].map((each) => [label(each), each.scrollLeft, each.scrollTop]);
    for (const each of before.querySelectorAll("details[open]")) {
      const summary = (details) => details.querySelector("summary").textContent;
      named(after, "details", summary(each), summary)?.setAttribute("open", "");
    }
    before.replaceWith(after);
    for (const [text, left, top] of scrolled) {
      const region = left || top ? named(after, "[role=region]", text, label) : null;
      if (region) [region.scrollLeft, region.scrollTop] = [left, top];
    }
    if (focused) named(after, "[tabindex], a", label(focused), label)?.focus({ preventScroll: true });
  }

  /* Makes a part what it is now. As long as something of it has to stay as it was, it goes on being followed. */
  function update(part, next) {
    const old = new Map([...part.children].map((child) => [name(child), child]));
    let changed = false;
    let held = false;
    let last = null;
    for (const child of [...next.children]) {
      const before = old.get(name(child));
      const html = child.outerHTML;
      old.delete(name(child));
      if (before && served.get(before) === html) {
        last = before;
      } else if (before && isHeld(before)) {
        held = true;
        last = before;
      } else {
        if (before) replace(before, child);
        else if (last) last.after(child);
        else part.prepend(child);
        served.set(child, html);
        changed = true;
        last = child;
      }
    }
    for (const gone of old.values()) gone.remove();
    if (!held) {
      if (next.dataset.live) part.dataset.live = next.dataset.live;
      else delete part.dataset.live;
    }
    if (changed) document.dispatchEvent(new CustomEvent("live", { detail: part }));
  }

  function follow(part) {
    setTimeout(async () => {
      if (!document.hidden) {
        try {
          update(part, await now(part));
          delete part.dataset.lost;
        } catch {
          part.dataset.lost = ""; // the page was stopped; it may come back
        }
      }
      if (part.dataset.live) follow(part);
    }, EVERY_MS);
  }

  for (const part of document.querySelectorAll("[data-live]")) follow(part);
})();
