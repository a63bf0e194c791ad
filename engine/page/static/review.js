/* The keys of a review: a, r, e, s, u and 1 to 9 do what the buttons and labels that name them do. */
"use strict";
(() => {
  const typing = (element) => element.matches("textarea, select, input:not([type=radio]):not([type=checkbox])");
  const turn = document.querySelector("form.asked");
  const reason = turn?.querySelector("[name=reason]");
  const edit = turn?.querySelector("details.edit");

  function press(key) {
    const target = document.querySelector(`[aria-keyshortcuts="${CSS.escape(key)}"]`);
    if (!target) return false;
    if (key === "r") {
      reason.focus(); // Enter rejects
    } else if (key === "e") {
      edit.open = true;
      edit.querySelector("textarea").focus();
    } else if (target.type === "radio" && target.checked) {
      target.checked = false;
    } else {
      target.click();
    }
    return true;
  }

  document.addEventListener("keydown", (event) => {
    const at = event.target;
    if (event.isComposing || event.repeat) return;
    if (event.key === "Enter" && at === reason) {
      event.preventDefault();
      turn.requestSubmit(turn.querySelector("[value=reject]"));
    } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && edit?.contains(at)) {
      event.preventDefault();
      turn.requestSubmit(edit.querySelector("[value=edit]"));
    } else if (event.key === "Escape" && typing(at)) {
      at.blur();
    } else if (!typing(at) && !event.ctrlKey && !event.metaKey && !event.altKey && press(event.key)) {
      event.preventDefault();
    }
  });

  // A key that is pressed twice decides once.
  for (const form of document.forms) {
    let sent = false;
    form.addEventListener("submit", (event) => {
      if (sent) event.preventDefault();
      sent = true;
    });
    addEventListener("pageshow", () => { sent = false; });
  }
})();
