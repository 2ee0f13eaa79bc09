// Run as `node scripts.mjs CLIENT BASE_URL`. Prints what the client made of one call with a tool, and of the
// answer to the tool's result, as JSON.

import { writeSync } from 'node:fs';

const QUESTION = 'What is the weather in Oslo?';
const SCHEMA = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] };
const TOOL = {
  type: 'function',
  function: { name: 'get_weather', description: 'The weather.', parameters: SCHEMA },
};

// The AI SDK runs the tool and asks again by itself.
async function aiSdk(ai, model) {
  const called = [];
  const tool = ai.tool({
    description: 'The weather.',
    inputSchema: ai.jsonSchema(SCHEMA),
    execute: async (given) => {
      called.push(given);
      return '12 degrees';
    },
  });
  const stopWhen = ai.stepCountIs(3);
  const ask = { model, tools: { get_weather: tool }, prompt: QUESTION, stopWhen, maxOutputTokens: 64, maxRetries: 0 };
  const whole = await ai.generateText(ask);
  const stream = ai.streamText(ask);
  await stream.consumeStream();
  return {
    name: whole.steps[0].toolCalls[0].toolName,
    arguments: called[0],
    streamed: (await stream.steps)[0].toolCalls[0].input,
    text: whole.text,
    tokens: whole.steps.at(-1).usage.totalTokens,
  };
}

const settings = (base) => ({ baseURL: `${base}/v1`, apiKey: 'none' });

async function responses(base, ai, provider) {
  const { createOpenAI } = await import(provider);
  return aiSdk(await import(ai), createOpenAI(settings(base))('m'));
}

async function chat(base, ai, provider) {
  const { createOpenAI } = await import(provider);
  return aiSdk(await import(ai), createOpenAI(settings(base)).chat('m'));
}

async function compatible(base, ai, provider) {
  const { createOpenAICompatible } = await import(provider);
  return aiSdk(await import(ai), createOpenAICompatible({ name: 'cortex', includeUsage: true, ...settings(base) })('m'));
}

async function anthropic(base) {
  const { createAnthropic } = await import('@ai-sdk/anthropic');
  return aiSdk(await import('ai'), createAnthropic(settings(base))('m'));
}

async function langchain(base) {
  const { ChatOpenAI } = await import('@langchain/openai');
  const { HumanMessage, ToolMessage } = await import('@langchain/core/messages');
  const model = new ChatOpenAI({ model: 'm', apiKey: 'none', configuration: { baseURL: `${base}/v1` } });
  const bound = model.bindTools([TOOL]);
  const asked = [new HumanMessage(QUESTION)];
  const first = await bound.invoke(asked);
  const call = first.tool_calls[0];
  let streamed;
  for await (const chunk of await bound.stream(asked)) {
    streamed = streamed === undefined ? chunk : streamed.concat(chunk);
  }
  const result = new ToolMessage({ content: '12 degrees', tool_call_id: call.id });
  const last = await bound.invoke([...asked, first, result]);
  return {
    name: call.name,
    arguments: call.args,
    streamed: streamed.tool_calls[0].args,
    text: last.text,
    tokens: last.usage_metadata.total_tokens,
  };
}

async function ollama(base) {
  const { Ollama } = await import('ollama');
  const client = new Ollama({ host: base, headers: { authorization: 'Bearer none' } });
  const messages = [{ role: 'user', content: QUESTION }];
  const first = await client.chat({ model: 'm', messages, tools: [TOOL] });
  const call = first.message.tool_calls[0].function;
  let streamed;
  for await (const part of await client.chat({ model: 'm', messages, tools: [TOOL], stream: true })) {
    streamed ??= part.message.tool_calls?.[0].function.arguments;
  }
  const result = { role: 'tool', tool_name: call.name, content: '12 degrees' };
  const last = await client.chat({ model: 'm', messages: [...messages, first.message, result], tools: [TOOL] });
  const { models } = await client.list();
  if (models[0].name !== 'm') throw new Error(`it lists ${JSON.stringify(models)}`);
  return {
    name: call.name,
    arguments: call.arguments,
    streamed,
    text: last.message.content,
    tokens: last.prompt_eval_count + last.eval_count,
  };
}

const CLIENTS = {
  'ai-7-responses': (base) => responses(base, 'ai', '@ai-sdk/openai'),
  'ai-7-chat': (base) => chat(base, 'ai', '@ai-sdk/openai'),
  'ai-7-compatible': (base) => compatible(base, 'ai', '@ai-sdk/openai-compatible'),
  'ai-7-anthropic': anthropic,
  'ai-6-responses': (base) => responses(base, 'ai-6', 'ai-6-openai'),
  'ai-6-compatible': (base) => compatible(base, 'ai-6', 'ai-6-openai-compatible'),
  'langchain-js': langchain,
  'ollama-js': ollama,
};

const [client, base] = process.argv.slice(2);
writeSync(1, `${JSON.stringify(await CLIENTS[client](base))}\n`);
process.exit(0); // some keep connections open
