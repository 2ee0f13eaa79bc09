"use strict";
// How far nodes are with their downloads, asked every few seconds while any is under way, each with its end.

const EVERY_MS = { running: 2000, idle: 15000 };
const place = $("#downloads");
const isUnderWay = (each) => each.state === "running" || each.state === "cancelling";
let next = 0; // the timer of the next look

function row(each) {
  const size = each.total_mb ? `${each.done_mb.toLocaleString()} of ${each.total_mb.toLocaleString()} MiB` : "";
  const rate = each.seconds ? `, ${Math.round(each.done_mb / each.seconds).toLocaleString()} MiB/s` : "";
  const words = { running: `${size}${rate}`, cancelling: `ends with the piece that is under way, ${size}`, done: `here, ${size}` }[each.state] ?? `${each.state}: ${each.message}`;
  const bar = isUnderWay(each) && each.total_mb ? [element("progress", { max: each.total_mb, value: each.done_mb, "aria-label": each.source }), " "] : [];
  const end = each.state === "running" && place.dataset.cancel ? [" ", cancelButton(each)] : [];
  return element("li", { class: each.state === "failed" ? "error" : null }, ...bar, element("b", {}, each.source), ` on ${each.node}: ${words}`, ...end);
}

function cancelButton({ source, node }) {
  const made = element("button", { class: "button", type: "button", "aria-label": `Cancel the download of ${source} on ${node}` }, "Cancel");
  made.addEventListener("click", async () => {
    made.disabled = true;
    const headers = { "content-type": "application/json", "x-csrftoken": $("[name=csrfmiddlewaretoken]").value };
    const answer = await fetch(place.dataset.cancel, { method: "POST", headers, body: JSON.stringify({ source, node }) }).catch(() => null);
    place.querySelector("[role=status]").textContent = answer?.ok ? `${source} is being cancelled on ${node}.` : `${source} was not cancelled: ${await reason(answer)}`;
    look();
  });
  return made;
}

async function reason(answer) {
  const told = await answer?.json().catch(() => null);
  return told?.error?.message ?? "the control plane does not answer.";
}

async function look() {
  const answer = await fetch(place.dataset.url).catch(() => null);
  const list = answer?.ok ? await answer.json() : null;
  const rows = list === null ? [element("li", { class: "error" }, "The control plane does not answer.")] : list.map(row);
  place.querySelector("ul").replaceChildren(...(rows.length ? rows : [element("li", {}, "None since the nodes were started.")]));
  clearTimeout(next);
  next = setTimeout(() => (document.hidden ? document.addEventListener("visibilitychange", look, { once: true }) : look()), (list ?? []).some(isUnderWay) ? EVERY_MS.running : EVERY_MS.idle);
}

look();
