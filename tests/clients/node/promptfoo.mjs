// promptfoo: `promptfoo eval` with the providers openai:chat and openai:responses.
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { MAX_TOKENS, MODEL, QUESTION, SCHEMA, UNKNOWN_MODEL, expect, expectTicket, run } from "./checks.mjs";

const program = join(dirname(fileURLToPath(import.meta.url)), "node_modules", ".bin", "promptfoo");
const folder = join(process.env.CLIENTS_WORK_FOLDER, "promptfoo");

function evaluate(providers) {
  mkdirSync(folder, { recursive: true });
  const [config, output] = [join(folder, "promptfooconfig.json"), join(folder, "output.json")];
  const tests = [{ vars: { ticket: QUESTION } }];
  writeFileSync(config, JSON.stringify({ prompts: ["{{ticket}}"], providers, tests }));
  const ran = spawnSync(program, ["eval", "-c", config, "-o", output, "--no-cache", "--no-table"], {
    encoding: "utf8",
    timeout: 240_000,
    env: {
      ...process.env,
      PROMPTFOO_CONFIG_DIR: folder,
      PROMPTFOO_DISABLE_TELEMETRY: "1",
      PROMPTFOO_DISABLE_UPDATE: "1",
      PROMPTFOO_DISABLE_REMOTE_GENERATION: "1",
    },
  });
  try {
    return JSON.parse(readFileSync(output, "utf8")).results.results;
  } catch {
    throw new Error(`exit code ${ran.status}: ${ran.stdout}${ran.stderr}`);
  }
}

function answersOf(providers) {
  return evaluate(providers).map((result) => {
    expect(result.response && !result.error, result.error ?? "no response");
    return result.response.output;
  });
}

const chat = (config, model = MODEL) => ({ id: `openai:chat:${model}`, config: { max_tokens: MAX_TOKENS, ...config } });
const responses = (config) => ({ id: `openai:responses:${MODEL}`, config: { max_output_tokens: MAX_TOKENS, ...config } });

await run(["promptfoo"], {
  chat: () => {
    expect(answersOf([chat(), responses()]).length === 2, "not two answers");
    return "openai:chat, openai:responses";
  },
  tools: () => {
    const described = { name: "route", parameters: SCHEMA };
    const answers = answersOf([
      chat({ max_tokens: 100, tools: [{ type: "function", function: described }], tool_choice: "required" }),
      responses({ max_output_tokens: 100, tools: [{ type: "function", ...described }], tool_choice: "required" }),
    ]);
    for (const answer of answers) expect(JSON.stringify(answer).includes("route"), answer);
  },
  structured: () => {
    const format = { type: "json_schema", json_schema: { name: "ticket", strict: true, schema: SCHEMA } };
    const answers = answersOf([
      chat({ max_tokens: 100, response_format: format }),
      responses({ max_output_tokens: 100, response_format: format }),
    ]);
    for (const answer of answers) expectTicket(typeof answer === "string" ? JSON.parse(answer) : answer);
  },
  unknown_model: () => {
    const [result] = evaluate([chat({}, UNKNOWN_MODEL)]);
    expect(result.error?.includes("404") && result.error.includes(UNKNOWN_MODEL), result.error ?? "no error");
  },
});
