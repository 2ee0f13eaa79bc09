"use strict";
// What the plots of several pages share: colours by day and by night, axes, and when to draw anew.

const BLUE = ["#1f6f9f", "#6cb6e0"], RED = ["#ba2121", "#ff8080"], GREEN = ["#2a7a46", "#6fd093"], AMBER = ["#8a6100", "#e0b040"];
const VIOLET = ["#7b3fa0", "#cf9bf0"], GREY = ["#555555", "#bbbbbb"];
const root = document.documentElement;
const night = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => root.dataset.theme === "dark" || (root.dataset.theme !== "light" && night.matches);
const colour = (pair) => pair[isDark() ? 1 : 0];
const ink = (name) => getComputedStyle(root).getPropertyValue(name).trim() || "#888";

// How the time axis writes times, by the step between its marks: the format, then what is written below it where a
// year or a day begins (columns 2 and 4 of uPlot's rules). All times are UTC.
const DAY_S = 86400, DATE = "\n{YYYY}-{MM}-{DD}";
const rule = (step, format, year, day) => [step, format, year, null, day, null, null, null, 1];
const TIMES = [
  rule(365 * DAY_S, "{YYYY}", null, null),
  rule(DAY_S, "{MM}-{DD}", "\n{YYYY}", null),
  rule(60, "{HH}:{mm}", DATE, "\n{MM}-{DD}"),
  rule(1, "{HH}:{mm}:{ss}", DATE, "\n{MM}-{DD}"),
];
// A line of few values is drawn with its points, without which one alone would not be seen.
const FEW = 40;
const points = { size: 4, show: (plot, index) => plot.data[index].filter((value) => value !== null).length < FEW };

// Options of uPlot for a plot in `figure`, with values from zero on that `read` puts into words.
function plotOptions(figure, height, valueWidth, read) {
  const axis = { stroke: () => ink("--body-quiet-color"), grid: { stroke: () => ink("--hairline-color"), width: 1 }, ticks: { show: false } };
  return {
    width: Math.max(200, figure.clientWidth - 16),
    height,
    scales: { y: { range: (_, low, high) => [0, high > 0 ? 1.05 * high : 1] } },
    tzDate: (seconds) => uPlot.tzDate(new Date(1000 * seconds), "UTC"),
    axes: [{ ...axis, values: TIMES }, { ...axis, size: valueWidth, values: (_, values) => values.map(read) }],
  };
}

function describe(plot, words) {
  const canvas = plot.root.querySelector("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", words);
}

// Draw now, and whenever the width or the theme changes.
function keepDrawn(draw) {
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; draw(); } });
  new MutationObserver(draw).observe(root, { attributeFilter: ["data-theme"] });
  night.addEventListener("change", draw);
  draw();
}
