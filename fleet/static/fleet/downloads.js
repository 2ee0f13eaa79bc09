"use strict";
// How far nodes are with their downloads, asked every few seconds while any is under way.

const EVERY_MS = { running: 2000, idle: 15000 };
const place = $("#downloads");

function row(each) {
  const size = each.total_mb ? `${each.done_mb.toLocaleString()} of ${each.total_mb.toLocaleString()} MiB` : "";
  const rate = each.seconds ? `, ${Math.round(each.done_mb / each.seconds).toLocaleString()} MiB/s` : "";
  const words = each.state === "running" ? `${size}${rate}` : each.state === "failed" ? `failed: ${each.message}` : `here, ${size}`;
  const bar = each.state === "running" && each.total_mb ? [element("progress", { max: each.total_mb, value: each.done_mb, "aria-label": each.source }), " "] : [];
  return element("li", { class: each.state === "failed" ? "error" : null }, ...bar, element("b", {}, each.source), ` on ${each.node}: ${words}`);
}

async function look() {
  const answer = await fetch(place.dataset.url).catch(() => null);
  const list = answer?.ok ? await answer.json() : null;
  const rows = list === null ? [element("li", { class: "error" }, "The control plane does not answer.")] : list.map(row);
  place.querySelector("ul").replaceChildren(...(rows.length ? rows : [element("li", {}, "None since the nodes were started.")]));
  const isRunning = (list ?? []).some((each) => each.state === "running");
  setTimeout(() => (document.hidden ? document.addEventListener("visibilitychange", look, { once: true }) : look()), isRunning ? EVERY_MS.running : EVERY_MS.idle);
}

look();
