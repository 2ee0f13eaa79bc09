// Drives an agent with the official TypeScript SDK. Arguments: working directory, a prompt to let run, a prompt to cancel,
// agent command... Answers permission questions with "allow once", changes the mode twice, loads the session again, and
// prints what it saw as one JSON object. The cancel goes out with the first word of the answer, or right behind the
// prompt if CANCEL_AT_ONCE is set (a short answer might be over first).
import { spawn } from "node:child_process";
import * as fs from "node:fs/promises";
import { Readable, Writable } from "node:stream";
import * as acp from "@agentclientprotocol/sdk";

const [cwd, letRun, toCancel, ...command] = process.argv.slice(2);
const child = spawn(command[0], command.slice(1), { stdio: ["pipe", "pipe", "inherit"] });
const stream = acp.ndJsonStream(Writable.toWeb(child.stdin), Readable.toWeb(child.stdout));
const seen = { updates: [], permissions: 0, reads: 0, writes: 0 };
const M = acp.methods.agent;
const C = acp.methods.client;
let onUpdate = () => {};

const app = acp
  .client({ name: "ts-sdk-test" })
  .onNotification(C.session.update, ({ params }) => {
    seen.updates.push(params.update);
    onUpdate(params.update);
  })
  .onRequest(C.session.requestPermission, ({ params }) => {
    seen.permissions += 1;
    const option = params.options.find((o) => o.kind === "allow_once");
    return { outcome: { outcome: "selected", optionId: option.optionId } };
  })
  .onRequest(C.fs.readTextFile, async ({ params }) => {
    seen.reads += 1;
    return { content: await fs.readFile(params.path, "utf8") };
  })
  .onRequest(C.fs.writeTextFile, async ({ params }) => {
    seen.writes += 1;
    await fs.writeFile(params.path, params.content);
    return {};
  });

await app.connectWith(stream, async (ctx) => {
  const text = (sessionId, words) => ({ sessionId, prompt: [{ type: "text", text: words }] });
  seen.initialize = await ctx.request(M.initialize, {
    protocolVersion: acp.PROTOCOL_VERSION,
    clientInfo: { name: "ts-sdk-test", version: "1" },
    clientCapabilities: {
      fs: { readTextFile: true, writeTextFile: true },
      session: { notices: {}, compaction: {} },
    },
  });
  const session = await ctx.request(M.session.new, { cwd, mcpServers: [] });
  const sessionId = session.sessionId;
  seen.first = await ctx.request(M.session.prompt, text(sessionId, letRun));
  const waiting = new Promise((resolve) => {
    onUpdate = (update) => update.sessionUpdate === "agent_message_chunk" && resolve();
  });
  const turn = ctx.request(M.session.prompt, text(sessionId, toCancel));
  if (!process.env.CANCEL_AT_ONCE) await waiting;
  await ctx.notify(M.session.cancel, { sessionId });
  seen.second = await turn;
  await ctx.request(M.session.setMode, { sessionId, modeId: "accept_edits" });
  seen.options = await ctx.request(M.session.setConfigOption, { sessionId, configId: "mode", value: "plan" });
  seen.list = await ctx.request(M.session.list, { cwd });
  await ctx.request(M.session.close, { sessionId });
  const live = seen.updates.splice(0);
  await ctx.request(M.session.load, { sessionId, cwd, mcpServers: [] });
  seen.replayed = seen.updates;
  seen.updates = live;
});
child.stdin.end();
console.log(JSON.stringify(seen));
