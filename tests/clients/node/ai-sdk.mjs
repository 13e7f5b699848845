// Vercel AI SDK: @ai-sdk/openai, whose default is the responses API, its chat(), and @ai-sdk/openai-compatible.
import { createOpenAI, openai } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, embed, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import {
  API_KEY,
  BASE_URL,
  EMBEDDINGS_REFUSAL,
  MAX_TOKENS,
  MODEL,
  QUESTION,
  UNKNOWN_MODEL,
  expect,
  expectError,
  expectTicket,
  run,
} from "./checks.mjs";

const compatible = createOpenAICompatible({
  name: "ftpipe",
  baseURL: BASE_URL,
  apiKey: API_KEY,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const providers = {
  "@ai-sdk/openai": openai,
  "@ai-sdk/openai chat()": createOpenAI().chat,
  "@ai-sdk/openai-compatible": compatible,
};
const Ticket = z.object({ queue: z.enum(["billing", "bug"]), urgent: z.boolean() });
const common = { prompt: QUESTION, maxRetries: 0 };
const isNotFound = (error) => APICallError.isInstance(error) && error.statusCode === 404;

async function each(check) {
  for (const [name, provider] of Object.entries(providers)) {
    try {
      await check(provider, name);
    } catch (error) {
      error.message = `${name}: ${error.message}`;
      throw error;
    }
  }
  return Object.keys(providers).join(", ");
}

await run(["ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible"], {
  chat: () =>
    each(async (provider) => {
      const answer = await generateText({ ...common, model: provider(MODEL), maxOutputTokens: MAX_TOKENS });
      expect(answer.usage.inputTokens > 0, answer.usage);
    }),
  stream: () =>
    each(async (provider) => {
      const answer = streamText({
        ...common,
        model: provider(MODEL),
        maxOutputTokens: MAX_TOKENS,
        onError: ({ error }) => {
          throw error;
        },
      });
      let text = "";
      for await (const part of answer.fullStream) {
        expect(part.type !== "error", `${part.error}`);
        if (part.type === "text-delta") text += part.text;
      }
      expect(text === (await answer.text), text);
      expect((await answer.usage).inputTokens > 0, await answer.usage);
    }),
  tools: () =>
    each(async (provider) => {
      const called = [];
      const options = {
        ...common,
        model: provider(MODEL),
        maxOutputTokens: 100,
        toolChoice: "required",
        tools: {
          route: tool({
            description: "Route a ticket.",
            inputSchema: Ticket,
            execute: async (ticket) => {
              called.push(ticket);
              return "done";
            },
          }),
        },
        stopWhen: stepCountIs(2),
      };
      await generateText(options);
      expect(called.length === 2, called);
      called.forEach(expectTicket);
      const streamed = streamText(options);
      for await (const part of streamed.fullStream) expect(part.type !== "error", `${part.error}`);
      expect(called.length === 4, called);
    }),
  structured: () =>
    each(async (provider) => {
      const options = {
        ...common,
        model: provider(MODEL),
        maxOutputTokens: 100,
        output: Output.object({ schema: Ticket }),
      };
      expectTicket((await generateText(options)).output);
      expectTicket(await streamText(options).output);
    }),
  embeddings: () =>
    expectError(
      isNotFound,
      () => embed({ model: openai.embedding(MODEL), value: "x", maxRetries: 0 }),
      EMBEDDINGS_REFUSAL,
    ),
  unknown_model: () =>
    each((provider) =>
      expectError(isNotFound, () => generateText({ ...common, model: provider(UNKNOWN_MODEL) }), UNKNOWN_MODEL),
    ),
});
