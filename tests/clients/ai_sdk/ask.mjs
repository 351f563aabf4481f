// Asks a server (its /v1 address is the argument) through each provider of the AI SDK; prints what came as JSON.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, streamObject, streamText, tool } from "ai";
import { z } from "zod";

const baseURL = process.argv[2];
const apiKey = "EMPTY";
const openai = createOpenAI({ baseURL, apiKey });
const compatible = createOpenAICompatible({ name: "octavo", baseURL, apiKey, supportsStructuredOutputs: true });
const models = {
  compatible: compatible("smollm2"),
  chat: openai.chat("smollm2"),
  responses: openai.responses("smollm2"),
  messages: createAnthropic({ baseURL, apiKey })("smollm2"),
};
const prompt = "What is the weather in Oslo?";
const schema = z.object({ city: z.string().max(12), sky: z.enum(["clear", "cloudy"]), degrees: z.array(z.number().int()).max(2) });
const tools = {
  look_up: tool({
    description: "Say how the weather in a city is.",
    inputSchema: z.object({ city: z.enum(["Oslo", "Rome"]) }),
    execute: async ({ city }) => `Rain in ${city}.`,
  }),
};

async function text(model) {
  const asked = { model, prompt, maxOutputTokens: 12, temperature: 0 };
  const whole = await generateText(asked);
  let streamed = "";
  for await (const piece of streamText(asked).textStream) streamed += piece;
  return { whole: whole.text, streamed, outputTokens: whole.usage.outputTokens };
}

async function object(model) {
  const asked = { model, prompt, schema, maxOutputTokens: 150, temperature: 0 };
  const stream = streamObject(asked);
  let partials = 0;
  for await (const _ of stream.partialObjectStream) partials += 1;
  return { whole: (await generateObject(asked)).object, streamed: await stream.object, partials };
}

async function call(model) {
  const asked = { model, prompt, tools, toolChoice: { type: "tool", toolName: "look_up" }, maxOutputTokens: 60, temperature: 0 };
  const whole = await generateText(asked);
  const stream = streamText(asked);
  const said = (calls, results) => ({ inputs: calls.map((one) => one.input), outputs: results.map((one) => one.output) });
  return {
    whole: said(whole.toolCalls, whole.toolResults),
    streamed: said(await stream.toolCalls, await stream.toolResults),
    finishReason: whole.finishReason,
  };
}

const found = {};
for (const [name, model] of Object.entries(models)) {
  found[name] = {};
  for (const ask of [text, object, call]) {
    try {
      found[name][ask.name] = await ask(model);
    } catch (error) {
      found[name][ask.name] = { error: String(error), answer: error.text ?? error.responseBody };
    }
  }
}
console.log(JSON.stringify(found));
