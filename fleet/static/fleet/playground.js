"use strict";
// The playground: one chat with one model, or the same chat with two. The admin adds the session's key.

const page = $("#playground");
const api = page.dataset.api.replace(/models$/, "");
const token = $("[name=csrfmiddlewaretoken]").value;

// --- the chat of one column ---

class Column {
  constructor(models, chosen) {
    this.messages = [];
    this.abort = null;
    this.select = element("select", { "aria-label": "Model" });
    for (const model of models) this.select.append(element("option", { value: model.id }, `${model.id} (${model.state})`));
    if (chosen) this.select.value = chosen;
    this.turns = element("div", { role: "log", "aria-live": "polite", tabindex: "0", "aria-label": "Chat" });
    this.element = element("section", {}, this.select, this.turns);
  }

  clear() {
    this.messages = [];
    this.turns.replaceChildren();
  }

  async ask(content, shown) {
    this.turns.querySelector("form")?.remove(); // results that nobody sent
    this.turns.append(shown);
    await this.add({ role: "user", content });
  }

  // Add what the model is to answer, and its answer, if there is one.
  async add(...messages) {
    this.messages.push(...messages);
    const turn = new Turn();
    this.turns.append(turn.element);
    this.abort = new AbortController();
    tellStop();
    try {
      const answer = await fetch(`${api}chat/completions`, {
        method: "POST",
        headers: { "content-type": "application/json", "x-csrftoken": token },
        body: JSON.stringify(body(this)),
        signal: this.abort.signal,
      });
      turn.request = answer.headers.get("x-request-id");
      turn.node = answer.headers.get("x-cortex-node");
      if (!answer.ok) throw new Error(await reason(answer));
      for await (const line of lines(answer.body)) turn.read(line);
    } catch (error) {
      turn.fail(error.name === "AbortError" ? "stopped" : error.message);
    }
    this.abort = null;
    tellStop();
    turn.end();
    if (turn.text || turn.calls.length) this.messages.push(turn.message());
    if (turn.calls.length) this.offer(turn.calls.filter(Boolean));
  }

  // Fields for the results of tools, which a person stands in for; sending them has the model go on.
  offer(calls) {
    const fields = calls.map((call) => element("textarea", { rows: "1", required: "", "aria-label": `Result of ${call.function.name}`, placeholder: `Result of ${call.function.name}` }));
    const form = element("form", { class: "results" }, ...fields, element("button", { class: "button" }, "Send results"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      form.replaceWith(...fields.map((field) => element("div", { class: "turn user" }, field.value)));
      this.add(...calls.map((call, index) => ({ role: "tool", tool_call_id: call.id, content: fields[index].value })));
    });
    this.turns.append(form);
  }
}

async function reason(answer) {
  const text = await answer.text();
  try { return JSON.parse(text).error.message; } catch { return `${answer.status}: ${text.slice(0, 500)}`; }
}

async function* lines(stream) {
  const decoder = new TextDecoder();
  let left = "";
  for (const reader = stream.getReader(); ;) {
    const { done, value } = await reader.read();
    const pieces = (left + (done ? "" : decoder.decode(value, { stream: true }))).split(/\r?\n/);
    left = pieces.pop();
    yield* pieces;
    if (done) { if (left) yield left; return; }
  }
}

// --- one answer, as it comes ---

class Turn {
  constructor() {
    this.started = performance.now();
    this.text = "";
    this.thoughts = "";
    this.calls = [];
    this.usage = null;
    this.first = null;
    this.shown = element("div", {});
    this.thought = element("details", { hidden: "" }, element("summary", {}, "Thoughts"), element("div", {}));
    this.tools = element("div", {});
    this.facts = element("div", { class: "facts" }, "…");
    this.element = element("div", { class: "turn" }, this.thought, this.shown, this.tools, this.facts);
  }

  read(line) {
    if (line.startsWith(":")) { if (this.first === null && line.length > 2) this.facts.textContent = line.slice(1).trim(); return; }
    if (!line.startsWith("data:") || line.includes("[DONE]")) return;
    const event = JSON.parse(line.slice(5));
    if (event.error) throw new Error(event.error.message);
    this.usage = event.usage || this.usage;
    const delta = event.choices && event.choices[0] && event.choices[0].delta;
    if (delta) this.add(delta);
  }

  add(delta) {
    const thought = delta.reasoning_content || delta.reasoning || "";
    if (this.first === null && (delta.content || thought || delta.tool_calls)) this.first = performance.now() - this.started;
    this.text += delta.content || "";
    this.thoughts += thought;
    for (const part of delta.tool_calls || []) {
      const call = (this.calls[part.index] ||= { id: part.id, type: "function", function: { name: "", arguments: "" } });
      call.function.name += part.function?.name || "";
      call.function.arguments += part.function?.arguments || "";
    }
    this.draw();
  }

  draw() {
    this.shown.textContent = this.text;
    this.thought.hidden = !this.thoughts;
    this.thought.lastChild.textContent = this.thoughts;
    this.tools.replaceChildren(...this.calls.map((call) => element("div", { class: "tool" }, `${call.function.name}(${call.function.arguments})`)));
  }

  fail(message) {
    this.element.append(element("div", { class: "error", role: "alert" }, message));
  }

  end() {
    const seconds = (performance.now() - this.started) / 1000;
    const words = [`${seconds.toFixed(2)} s`];
    if (this.first !== null) words.push(`first token ${(this.first / 1000).toFixed(2)} s`);
    if (this.usage) words.push(`${this.usage.prompt_tokens} + ${this.usage.completion_tokens} tokens`);
    if (this.usage && this.first !== null && this.usage.completion_tokens > 1 && seconds - this.first / 1000 > 0.05) words.push(`${((this.usage.completion_tokens - 1) / (seconds - this.first / 1000)).toFixed(1)} tokens/s`);
    if (this.node) words.push(`on ${this.node}`);
    this.facts.textContent = words.join(" · ");
    if (this.request) this.facts.append(" · ", element("a", { href: page.dataset.explained.replace(/[^/]+\/$/, `${encodeURIComponent(this.request)}/`) }, "where the time went"));
  }

  message() {
    const message = { role: "assistant", content: this.text };
    if (this.calls.length) message.tool_calls = this.calls.filter(Boolean);
    return message;
  }
}

// --- what is asked ---

function body(column) {
  const made = { model: column.select.value, messages: [...column.messages], stream: true, stream_options: { include_usage: true } };
  const system = $("#system").value.trim();
  if (system) made.messages.unshift({ role: "system", content: system });
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) if ($(`#${name}`).value !== "") made[name] = Number($(`#${name}`).value);
  const schema = json("#schema"), tools = json("#tools");
  if (schema) made.response_format = { type: "json_schema", json_schema: { name: "answer", strict: true, schema } };
  if (tools) made.tools = tools;
  return made;
}

function json(selector) {
  const field = $(selector);
  field.setCustomValidity("");
  if (!field.value.trim()) return null;
  try { return JSON.parse(field.value); } catch (error) {
    $("#settings").open = true;
    field.setCustomValidity(`This is not JSON: ${error.message}`);
    field.reportValidity();
    throw error;
  }
}

let columns = [];
let models = [];
let pictures = []; // data URLs
const wished = new URLSearchParams(location.search).get("model");

function arrange() {
  const wanted = $("#beside").checked ? 2 : 1;
  while (columns.length > wanted) columns.pop().abort?.abort();
  while (columns.length < wanted) {
    const made = new Column(models, models[columns.length % Math.max(models.length, 1)]?.id);
    if (columns.length) { made.messages = [...columns[0].messages]; made.turns.append(...[...columns[0].turns.querySelectorAll(".turn")].map((turn) => turn.cloneNode(true))); }
    columns.push(made);
  }
  $("#columns").replaceChildren(...columns.map((column) => column.element));
}

const tellStop = () => { $("#stop").disabled = !columns.some((column) => column.abort); };

async function send() {
  const question = $("#question").value.trim();
  if (!question || !models.length || columns.some((column) => column.abort)) return;
  try { body(columns[0]); } catch { return; } // the field says what is wrong
  const content = pictures.length ? [{ type: "text", text: question }, ...pictures.map((url) => ({ type: "image_url", image_url: { url } }))] : question;
  const shown = () => element("div", { class: "turn user" }, question, ...pictures.map((src) => element("img", { src, alt: "Sent picture" })));
  const asked = columns.map((column) => column.ask(content, shown()));
  $("#question").value = "";
  pictures = [];
  drawPictures();
  await Promise.all(asked);
  $("#question").focus();
}

function drawPictures() {
  $("#pictures").replaceChildren(...pictures.map((src) => element("li", {}, element("img", { src, alt: "Picture to send" }))));
}

// --- copies for elsewhere ---

const shell = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
const COPIES = {
  curl: (made) => `curl -N ${page.dataset.public}/v1/chat/completions -H "Authorization: Bearer $CORTEX_KEY" -H 'content-type: application/json' -d ${shell(JSON.stringify(made))}`,
  python: (made) => [
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${page.dataset.public}/v1", api_key="…")`,
    `stream = client.chat.completions.create(**json.loads(${JSON.stringify(JSON.stringify(made))}))`,
    "for event in stream:",
    "    if event.choices:",
    `        print(event.choices[0].delta.content or "", end="", flush=True)`,
  ].join("\n").replace("from openai", "import json\n\nfrom openai"),
  claude: (made) => `ANTHROPIC_BASE_URL=${page.dataset.public} ANTHROPIC_AUTH_TOKEN=$CORTEX_KEY ANTHROPIC_MODEL=${shell(made.model)} ANTHROPIC_SMALL_FAST_MODEL=${shell(made.model)} claude`,
};

async function copy(kind) {
  const made = body(columns[0]);
  const question = $("#question").value.trim();
  if (question) made.messages.push({ role: "user", content: question });
  const text = COPIES[kind](made);
  try { await navigator.clipboard.writeText(text); $("#told").textContent = "copied"; } catch { prompt("Copy this:", text); }
}

// --- start ---

async function start() {
  const answer = await fetch(`${api}models`);
  if (!answer.ok) { $("#columns").textContent = await reason(answer); return; }
  const order = (model) => (model.state === "loaded" ? 0 : 1);
  models = (await answer.json()).data.map((model) => ({ ...model, state: model.state || "listed" }));
  models.sort((one, other) => (other.id === wished) - (one.id === wished) || order(one) - order(other) || one.id.localeCompare(other.id));
  if (!models.length) $("#told").textContent = "There is no model yet: add one under Models, or a node that serves some.";
  arrange();
}

$("#ask").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("#question").addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); } });
$("#stop").addEventListener("click", () => columns.forEach((column) => column.abort?.abort()));
$("#again").addEventListener("click", () => { columns.forEach((column) => column.abort?.abort()); columns.forEach((column) => column.clear()); });
$("#beside").addEventListener("change", arrange);
$("#copy").addEventListener("change", (event) => { if (event.target.value) copy(event.target.value); event.target.value = ""; });
$("#picture").addEventListener("change", async (event) => {
  for (const file of event.target.files) {
    pictures.push(await new Promise((done) => { const reader = new FileReader(); reader.onload = () => done(reader.result); reader.readAsDataURL(file); }));
  }
  event.target.value = "";
  drawPictures();
});
start();
