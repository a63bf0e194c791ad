/* Sets the formulas of a page with KaTeX, as MathML, which needs no fonts. What is no formula stays as it was written. */
"use strict";
for (const place of document.querySelectorAll("[data-maths]")) {
  try {
    katex.render(place.textContent, place, {
      displayMode: place.dataset.maths === "display",
      output: "mathml",
      trust: false,
      maxSize: 20,
      maxExpand: 200,
    });
    if (place.scrollWidth > place.clientWidth && place.dataset.maths === "display") place.tabIndex = 0; // scrolled by keyboard
  } catch (error) {
    if (!(error instanceof katex.ParseError)) throw error;
    place.title = error.message;
  }
}
