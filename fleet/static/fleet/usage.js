"use strict";
// The plot of tokens a day, a line for each group.

const COLOURS = [BLUE, RED, GREEN, AMBER, VIOLET, GREY];
const place = $("#plot");
let plot = null;

function draw() {
  plot?.destroy();
  const { days, series } = JSON.parse($("#series").textContent);
  const lines = Object.keys(series).map((label, index) => ({ label, stroke: colour(COLOURS[index % COLOURS.length]), width: 1.5, points }));
  const options = {
    ...plotOptions(place, 220, 80, (value) => value.toLocaleString()),
    series: [{ label: "day", value: "{YYYY}-{MM}-{DD}" }, ...lines],
  };
  plot = new uPlot(options, [days.map((day) => Date.parse(day) / 1000), ...Object.values(series)], place);
  describe(plot, "Tokens a day; the table below has the sums");
}

if (place) keepDrawn(draw);
