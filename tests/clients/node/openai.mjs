// openai (npm): OpenAI's own client for JavaScript, with what it reads from the environment.
import { createReadStream } from "node:fs";
import OpenAI, { NotFoundError } from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import {
  EMBEDDINGS_REFUSAL,
  MAX_TOKENS,
  MODEL,
  QUESTION,
  SCHEMA,
  UNKNOWN_MODEL,
  expect,
  expectError,
  expectTicket,
  run,
  trainingFile,
  waitUntilEnded,
} from "./checks.mjs";

const client = new OpenAI();
const messages = [{ role: "user", content: QUESTION }];
const tools = [{ type: "function", function: { name: "route", parameters: SCHEMA, strict: true } }];
const Ticket = z.object({ queue: z.enum(["billing", "bug"]), urgent: z.boolean() });
const isNotFound = (error) => error instanceof NotFoundError;

await run(["openai"], {
  models: async () => {
    const names = [];
    for await (const model of client.models.list()) names.push(model.id);
    expect(names.includes(MODEL), names);
    return `${names.length} models`;
  },
  chat: async () => {
    const answer = await client.chat.completions.create({ model: MODEL, messages, max_tokens: MAX_TOKENS });
    expect(answer.usage.prompt_tokens > 0, answer);
    const response = await client.responses.create({
      model: MODEL,
      input: QUESTION,
      max_output_tokens: MAX_TOKENS,
    });
    expect(response.usage.input_tokens > 0, response);
  },
  stream: async () => {
    const stream = client.chat.completions.stream({
      model: MODEL,
      messages,
      max_tokens: MAX_TOKENS,
      stream_options: { include_usage: true },
    });
    expect((await stream.finalChatCompletion()).usage.prompt_tokens > 0, "no usage");
    const events = [];
    const responses = await client.responses.create({
      model: MODEL,
      input: QUESTION,
      max_output_tokens: MAX_TOKENS,
      stream: true,
    });
    for await (const event of responses) events.push(event.type);
    expect(events[0] === "response.created" && /completed|incomplete/.test(events.at(-1)), events);
  },
  tools: async () => {
    const called = [];
    const runner = client.chat.completions.runTools(
      {
        model: MODEL,
        messages,
        max_tokens: 100,
        tool_choice: "required",
        tools: [
          {
            type: "function",
            function: {
              name: "route",
              description: "Route a ticket.",
              parameters: SCHEMA,
              parse: JSON.parse,
              function: (ticket) => {
                called.push(ticket);
                return "done";
              },
            },
          },
        ],
      },
      { maxChatCompletions: 2 },
    );
    await runner.done();
    expectTicket(called[0]);
    const stream = client.chat.completions.stream({
      model: MODEL,
      messages,
      tools,
      tool_choice: "required",
      max_tokens: 100,
    });
    const final = await stream.finalChatCompletion();
    expectTicket(JSON.parse(final.choices[0].message.tool_calls[0].function.arguments));
  },
  structured: async () => {
    const chat = await client.chat.completions.parse({
      model: MODEL,
      messages,
      max_tokens: 100,
      response_format: zodResponseFormat(Ticket, "ticket"),
    });
    expectTicket(chat.choices[0].message.parsed);
    const response = await client.responses.parse({
      model: MODEL,
      input: QUESTION,
      max_output_tokens: 100,
      text: { format: zodTextFormat(Ticket, "ticket") },
    });
    expectTicket(response.output_parsed);
  },
  embeddings: () =>
    expectError(
      isNotFound,
      () => client.embeddings.create({ model: MODEL, input: "x" }),
      EMBEDDINGS_REFUSAL,
    ),
  unknown_model: () =>
    expectError(
      (error) => isNotFound(error) && error.code === "model_not_found",
      () => client.chat.completions.create({ model: UNKNOWN_MODEL, messages }),
      UNKNOWN_MODEL,
    ),
  fine_tuning: async () => {
    const file = await client.files.create({ file: createReadStream(trainingFile()), purpose: "fine-tune" });
    const job = await client.fineTuning.jobs.create({
      model: MODEL,
      training_file: file.id,
      method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 1 } } },
    });
    const model = await waitUntilEnded(() => client.fineTuning.jobs.retrieve(job.id));
    await client.chat.completions.create({ model, messages, max_tokens: MAX_TOKENS });
    const checkpoints = [];
    for await (const each of client.fineTuning.jobs.checkpoints.list(job.id)) checkpoints.push(each.id);
    expect(checkpoints.length > 0, "no checkpoints");
    return model;
  },
});
