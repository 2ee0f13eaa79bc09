"use strict";
// The live fleet page: every message on /ws/fleet is the whole state; what did not change is not drawn again.

const RETRY_MS = { first: 500, most: 15000 };
const plural = (count, noun) => `${count.toLocaleString()} ${noun}${count === 1 ? "" : "s"}`;
const gib = (mib) => (mib / 1024).toFixed(mib < 10240 ? 1 : 0);
const sum = (list, of) => list.reduce((total, item) => total + of(item), 0);

function ago(moment) {
  const seconds = Math.max(0, (Date.now() - Date.parse(moment)) / 1000);
  const [size, unit] = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]].find(([s]) => seconds >= s) || [1, "s"];
  return `${Math.floor(seconds / size)} ${unit} ago`;
}

function device(info, models) {
  const total = Math.max(info.usable_mb, 1);
  const here = models.filter((m) => m.devices.includes(info.index) && m.memory_mb);
  const bars = here.map((m) => [m.model, m.device_memory_mb[m.devices.indexOf(info.index)] ?? m.memory_mb / m.devices.length, "model"]);
  const rest = info.memory_used_mb - sum(bars, (bar) => bar[1]);
  if (rest > 0) bars.push(["other", rest, null]);
  const memory = element("div", { class: "memory" });
  for (const [title, size, kind] of bars) {
    memory.append(element("i", { class: kind, style: `width:${(100 * size) / total}%`, title: `${title}: ${gib(size)} GiB` }));
  }
  const facts = [`${gib(info.memory_used_mb)} of ${gib(info.usable_mb)} GiB`];
  if (info.utilization_pct !== null) facts.push(`${info.utilization_pct} %`);
  if (info.temperature_c !== null) facts.push(`${info.temperature_c} °C`);
  if (info.state !== "ready") facts.push(`${info.state}: ${info.reason}`);
  const figures = element("div", { class: "figures" }, element("span", {}, `${info.index} ${info.name}`), element("span", {}, facts.join(" · ")));
  return element("div", { class: "device" }, memory, figures);
}

function model(placement, isAway) {
  const { running, waiting, state, progress } = placement;
  const percent = state === "loading" && progress !== null ? ` ${Math.round(100 * progress)} %` : "";
  const what = isAway ? `was ${state}` : state === "loaded" ? `${running} running, ${waiting} waiting` : state + percent;
  const kind = state === "failed" ? "failed" : !isAway && running + waiting ? "busy" : "";
  const title = placement.error_message || null;
  return element("div", { class: `model ${kind}`, title }, element("b", {}, placement.model), element("span", { class: "state" }, what));
}

function node(info) {
  const models = info.placements.filter((p) => p.state !== "unloaded");
  const kind = !info.healthy ? "away" : info.status === "ok" || info.status === "" ? "" : "degraded";
  const card = element("div", { class: `node ${kind}` }, element("h3", {}, info.name));
  if (info.reason) card.append(element("p", { class: "reason" }, info.reason));
  card.append(...info.warnings.map((text) => element("p", { class: "reason" }, text)));
  if (info.cordoned) card.append(element("p", { class: "reason" }, "cordoned: nothing new is loaded here"));
  card.append(...info.devices.map((d) => device(d, models)), ...models.map((m) => model(m, !info.healthy)));
  card.dataset.words = [info.name, ...info.devices.map((d) => d.name), ...models.map((m) => m.model)].join(" ").toLowerCase();
  return card;
}

const cards = new Map(); // by node name: what it was drawn from, and the element

function drawNodes(nodes) {
  const names = new Set(nodes.map((n) => n.name));
  for (const [name, card] of cards) if (!names.has(name)) { card.element.remove(); cards.delete(name); }
  for (const info of nodes) {
    const source = JSON.stringify({ ...info, last_seen_at: null });
    const known = cards.get(info.name);
    if (known && known.source === source) continue;
    const drawn = node(info);
    if (known) known.element.replaceWith(drawn); else $("#nodes").append(drawn);
    cards.set(info.name, { source, element: drawn });
  }
  applyFilter();
}

function applyFilter() {
  const wanted = $("#filter").value.trim().toLowerCase();
  for (const { element: card } of cards.values()) card.hidden = !card.dataset.words.includes(wanted);
}

function operationRow(operation) {
  const link = element("a", { href: `${$("#live").dataset.operations}${operation.id}/change/` }, `${operation.kind} ${operation.model || operation.node + (operation.device === null ? "" : ":" + operation.device)} #${operation.id}`);
  const bar = operation.progress === null ? operation.state : element("progress", { max: 1, value: operation.progress });
  const cells = [link, operation.node, bar, operation.requested_by, operation.reason, operation.message];
  return element("tr", {}, ...cells.map((cell) => element("td", {}, cell)));
}

function evictionRow(operation) {
  const when = operation.finished_at || operation.created_at;
  const cells = [operation.model, operation.node, ago(when), operation.reason, operation.message || operation.state];
  return element("tr", {}, ...cells.map((cell) => element("td", {}, cell)));
}

function drawTable(section, rows) {
  $(section).hidden = !rows.length;
  $(`${section} tbody`).replaceChildren(...rows);
}

function drawSummary(state) {
  const devices = state.nodes.flatMap((n) => n.devices);
  const models = state.nodes.filter((n) => n.healthy).flatMap((n) => n.placements).filter((p) => p.state === "loaded");
  const used = sum(devices, (d) => d.memory_used_mb), total = sum(devices, (d) => d.usable_mb);
  $("#summary").className = "";
  $("#summary").textContent = [
    `${state.nodes.filter((n) => n.healthy).length} of ${plural(state.nodes.length, "node")} healthy`,
    plural(devices.length, "device"),
    `${gib(used)} of ${gib(total)} GiB in use`,
    `${plural(models.length, "model")} loaded`,
    `${sum(models, (m) => m.running)} running, ${sum(models, (m) => m.waiting)} waiting`,
    plural(state.operations.length, "operation") + " under way",
  ].join(" · ");
}

function draw(state) {
  drawSummary(state);
  drawTable("#operations", state.operations.map(operationRow));
  drawNodes(state.nodes);
  drawTable("#evictions", state.evictions.map(evictionRow));
}

function connect(delay) {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const prefix = location.pathname.split("/admin/")[0];
  const socket = new WebSocket(`${scheme}://${location.host}${prefix}/ws/fleet`);
  let next = delay;
  socket.onmessage = (event) => { next = RETRY_MS.first; draw(JSON.parse(event.data)); };
  socket.onclose = (event) => {
    $("#summary").className = "stale";
    if (event.code === 4403) { location.reload(); return; } // signed out
    setTimeout(connect, next, Math.min(2 * next, RETRY_MS.most));
  };
}

$("#filter").addEventListener("input", applyFilter);
connect(RETRY_MS.first);
