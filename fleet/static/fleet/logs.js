"use strict";
// The logs page: the last lines of one process or node, and every two seconds those that came.

const EVERY_MS = 2000;
const MOST_LINES = 1000;
const form = $("#logs");
let after = null; // where the lines that are shown end

// Time, level, message, then the other fields: a line is one JSON object, or whatever the process wrote.
function shown(line) {
  const made = document.createElement("div");
  try {
    const { time, level, program, logger, message, ...rest } = JSON.parse(line);
    made.className = level;
    made.textContent = [time?.slice(0, 23), level, logger, message, ...Object.entries(rest).map(([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`)].join("  ");
  } catch {
    made.textContent = line;
  }
  return made;
}

async function load(anew) {
  const chosen = $("#name").selectedOptions[0];
  const asked = new URLSearchParams({ [chosen.dataset.of]: chosen.value, match: $("#match").value });
  if (!anew && after !== null) asked.set("after", after);
  const answer = await fetch(`${form.dataset.lines}?${asked}`).catch(() => null);
  const part = await answer?.json().catch(() => null);
  if (chosen !== $("#name").selectedOptions[0]) return; // another was chosen meanwhile
  if (!answer?.ok) {
    if (anew) { $("#lines").replaceChildren(); after = null; }
    $("#count").textContent = part?.error ?? "the admin does not answer";
    return;
  }
  const place = $("#lines");
  const atEnd = place.scrollHeight - place.scrollTop - place.clientHeight < 40;
  if (anew) place.replaceChildren();
  place.append(...part.lines.map(shown));
  while (place.childElementCount > MOST_LINES) place.firstElementChild.remove();
  after = part.end;
  $("#count").textContent = `${place.childElementCount} lines`;
  if (anew || (atEnd && part.lines.length)) place.scrollTop = place.scrollHeight;
}

if (form) {
  form.addEventListener("submit", (event) => event.preventDefault());
  $("#name").addEventListener("change", () => load(true));
  $("#match").addEventListener("change", () => load(true));
  const asked = new URLSearchParams(location.search);
  if (asked.get("match")) $("#match").value = asked.get("match");
  const wanted = [...$("#name").options].find((each) => asked.get(each.dataset.of) === each.value);
  if (wanted) wanted.selected = true;
  load(true);
  setInterval(() => { if ($("#follow").checked && !document.hidden) load(false); }, EVERY_MS);
}
