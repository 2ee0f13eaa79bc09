"use strict";
// The home page's plots: six figures over the last hour, day or week, drawn again when new sums are there.

const REFRESH_MS = 30000;
const HEIGHT = 150;
const rate = (value) => value.toLocaleString(undefined, { maximumSignificantDigits: 3 });
const duration = (value) => (value < 1 ? `${rate(1000 * value)} ms` : `${rate(value)} s`);

// Each plot: its title, how its values read, and its lines: name, label, colour.
const PLOTS = [
  ["Requests a second", rate, [["requests", "all", BLUE], ["errors", "errors", RED], ["rejected", "refused", AMBER]]],
  ["Tokens a second", rate, [["prompt_tokens", "prompt", BLUE], ["completion_tokens", "answer", GREEN]]],
  ["First token", duration, [["first_token_p50", "median", BLUE], ["first_token_p95", "95 %", RED]]],
  ["Between tokens", duration, [["token_gap_p50", "median", BLUE], ["token_gap_p95", "95 %", RED]]],
  ["In the queue, on average", duration, [["queue", "queued", BLUE]]],
  ["Requests that waited for a load", rate, [["cold", "cold", BLUE]]],
];

const drawn = []; // {plot, keys, lines, now, read, title}

function draw(series) {
  const place = $("#plots");
  for (const { plot } of drawn.splice(0)) plot.destroy();
  place.replaceChildren();
  for (const [title, read, lines] of PLOTS) {
    const now = element("span", { class: "now" });
    const figure = element("figure", {}, element("figcaption", {}, `${title} `, now));
    place.append(figure);
    const options = {
      ...plotOptions(figure, HEIGHT, 64, read),
      cursor: { y: false },
      series: [{ label: "time", value: "{YYYY}-{MM}-{DD} {HH}:{mm}" }, ...lines.map(([, label, pair]) => ({ label, stroke: colour(pair), width: 1.5, points, spanGaps: false, value: (_, value) => (value === null ? "–" : read(value)) }))],
    };
    const keys = ["start", ...lines.map(([key]) => key)];
    const plot = new uPlot(options, keys.map((key) => series[key]), figure);
    drawn.push({ plot, keys, lines, now, read, title });
  }
  label(series);
}

function update(series) {
  for (const { plot, keys } of drawn) plot.setData(keys.map((key) => series[key]));
  label(series);
}

// The newest values in words, for those who cannot see the plot, too.
function label(series) {
  for (const { plot, lines, now, read, title } of drawn) {
    const words = lines.map(([key, name]) => {
      const value = series[key].findLast((each) => each !== null);
      return value === undefined ? null : `${name} ${read(value)}`;
    }).filter((each) => each !== null);
    now.textContent = words.length ? `last: ${words.join(", ")}` : "no requests";
    describe(plot, `${title}: ${now.textContent}`);
  }
}

let latest = JSON.parse($("#series").textContent);
const spans = $("#spans");
const chosen = () => spans.querySelector('[aria-pressed="true"]').value;

async function fetchSeries(show) {
  const span = chosen();
  const answer = await fetch(`${spans.dataset.url}?span=${span}`).catch(() => null); // tried again by the timer
  if (!answer || !answer.ok || span !== chosen()) return;
  latest = await answer.json();
  show(latest);
}

spans.addEventListener("click", (event) => {
  if (event.target.tagName !== "BUTTON") return;
  for (const button of spans.children) button.setAttribute("aria-pressed", String(button === event.target));
  fetchSeries(draw);
});
keepDrawn(() => draw(latest));
setInterval(() => { if (!document.hidden) fetchSeries(update); }, REFRESH_MS);
