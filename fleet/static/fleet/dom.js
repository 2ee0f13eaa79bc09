"use strict";
// What the scripts of several pages use: look an element up, make one.

const $ = (selector) => document.querySelector(selector);

// element("p", {class: "x"}, "text", child): text is never markup.
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
