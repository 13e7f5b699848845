"""The command ``llm``, with an entry in ``extra-openai-models.yaml`` and with ``llm openai endpoint``."""

from __future__ import annotations

import json

from tests.clients.python.checks import (
    API_KEY,
    BASE_URL,
    MODEL,
    QUESTION,
    SCHEMA,
    UNKNOWN_MODEL,
    WORK_FOLDER,
    expect,
    expect_ticket,
    run,
    run_module,
)

USER_FOLDER = WORK_FOLDER / "llm"
TOOL = 'def route(queue: str) -> str:\n    "Route a ticket."\n    return queue\n'


def llm(*words: str, is_failure: bool = False) -> str:
    """Run a command; its output."""
    USER_FOLDER.mkdir(exist_ok=True)
    entries = "".join(
        f"- model_id: {name}\n  model_name: {name}\n  api_base: {BASE_URL}\n  api_key_name: ftpipe\n"
        "  supports_schema: true\n  supports_tools: true\n  can_stream: true\n"
        for name in (MODEL, UNKNOWN_MODEL)
    )
    (USER_FOLDER / "extra-openai-models.yaml").write_text(entries, encoding="utf-8")
    variables = {"LLM_USER_PATH": str(USER_FOLDER)}
    ran = run_module("llm", *words, variables=variables, timeout_seconds=120, is_failure=is_failure)
    return ran.stderr if is_failure else ran.stdout


def prompt(*words: str, is_failure: bool = False, model: str = MODEL) -> str:
    return llm("-m", model, "--key", API_KEY, "-o", "max_tokens", "16", *words, QUESTION, is_failure=is_failure)


def chat() -> None:
    prompt("--no-stream")
    llm("openai", "endpoint", BASE_URL, "-m", MODEL, "--key", API_KEY, "-o", "max_tokens", "16", QUESTION)


def stream() -> None:
    prompt()


def tools() -> None:
    prompt("--functions", TOOL, "--no-stream")
    prompt("--functions", TOOL)


def structured() -> None:
    words = ("--schema", json.dumps(SCHEMA), "-o", "max_tokens", "100", QUESTION)
    expect_ticket(json.loads(llm("-m", MODEL, "--key", API_KEY, *words)))


def unknown_model() -> str:
    text = prompt(is_failure=True, model=UNKNOWN_MODEL)
    expect("404" in text and UNKNOWN_MODEL in text, text)
    return "exit code 1 with the message"


if __name__ == "__main__":
    run(("llm",), chat, stream, tools, structured, unknown_model)
