// What the programs of all Node clients share: where the server is, what they send, and how they report.
// A program prints a JSON object per line: first the versions, then each check with its result.
import { createRequire } from "node:module";
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

export const BASE_URL = process.env.OPENAI_BASE_URL;
export const API_KEY = process.env.OPENAI_API_KEY;
export const MODEL = process.env.CLIENTS_MODEL;
export const UNKNOWN_MODEL = "nobody-has-this-model";
export const QUESTION = "I was charged twice for the same order.";
export const MAX_TOKENS = 16;
export const SCHEMA = {
  type: "object",
  properties: { queue: { type: "string", enum: ["billing", "bug"] }, urgent: { type: "boolean" } },
  required: ["queue", "urgent"],
  additionalProperties: false,
};
export const EMBEDDINGS_REFUSAL = "Embeddings are not served";
const MAX_JOB_MILLISECONDS = 300_000;

function versionOf(name) {
  // packages need not export their package.json, so look for it beside what they export
  let folder = dirname(createRequire(import.meta.url).resolve(name));
  for (;;) {
    try {
      const manifest = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
      if (manifest.name === name) return manifest.version;
    } catch (error) {
      if (error.code !== "ENOENT") throw error;
    }
    folder = dirname(folder);
  }
}

export async function run(packages, checks) {
  const report = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
  report({ versions: Object.fromEntries(packages.map((name) => [name, versionOf(name)])) });
  const names = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(checks);
  let isFailed = false;
  for (const check of names) {
    const started = performance.now();
    let [detail, error] = ["", null];
    try {
      detail = `${(await checks[check]()) ?? ""}`;
    } catch (caught) {
      error = `${caught?.name}: ${caught?.message}`.slice(0, 2000);
      console.error(caught);
      isFailed = true;
    }
    report({ check, detail, error, seconds: Math.round((performance.now() - started) / 100) / 10 });
  }
  process.exitCode = isFailed ? 1 : 0;
}

export function expect(isTrue, what) {
  if (!isTrue) throw new Error(typeof what === "string" ? what : JSON.stringify(what));
}

export async function expectError(isRight, call, ...texts) {
  let result;
  try {
    result = await call();
  } catch (error) {
    expect(isRight(error), `another error: ${error?.name}: ${error?.message}`);
    const text = `${error.message} ${JSON.stringify(error)}`;
    for (const each of texts) expect(text.includes(each), `${each} is not in ${text}`);
    return error.name === "Error" ? error.constructor.name : error.name;
  }
  throw new Error(`no error, but ${JSON.stringify(result)}`);
}

export function expectTicket(value) {
  expect(["billing", "bug"].includes(value?.queue) && typeof value.urgent === "boolean", value ?? "no value");
}

export function trainingFile() {
  const path = join(process.env.CLIENTS_WORK_FOLDER, "train.jsonl");
  const rows = Array.from({ length: 12 }, (_, i) => ({
    messages: [
      { role: "user", content: `ticket ${i}` },
      { role: "assistant", content: i % 2 ? "bill" : "bug" },
    ],
  }));
  writeFileSync(path, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  return path;
}

export async function waitUntilEnded(retrieve) {
  const deadline = performance.now() + MAX_JOB_MILLISECONDS;
  for (;;) {
    const job = await retrieve();
    if (job.status === "succeeded") return job.fine_tuned_model;
    expect(["validating_files", "queued", "running"].includes(job.status), job.status);
    expect(performance.now() < deadline, `still ${job.status}`);
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}
