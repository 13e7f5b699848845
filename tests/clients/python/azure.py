"""AzureOpenAI of openai-python: the header ``api-key``, and deployments in paths."""

from __future__ import annotations

from typing import Any

from openai import AzureOpenAI, NotFoundError

from tests.clients.python.checks import (
    API_KEY,
    BASE_URL,
    MAX_TOKENS,
    MODEL,
    QUESTION,
    SCHEMA,
    UNKNOWN_MODEL,
    expect,
    expect_error,
    run,
    training_file,
    wait_until_ended,
)

client = AzureOpenAI(azure_endpoint=BASE_URL.removesuffix("/v1"), api_key=API_KEY, api_version="2025-04-01-preview")
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]
TOOL: Any = {"type": "function", "function": {"name": "route", "parameters": SCHEMA}}


def models() -> None:
    expect(MODEL in [model.id for model in client.models.list()], "the model is not listed")


def chat() -> None:
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=MAX_TOKENS)
    expect(answer.model == MODEL, answer)


def stream() -> None:
    chunks = list(client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=MAX_TOKENS, stream=True))
    expect(chunks[-1].choices[0].finish_reason, chunks)


def tools() -> None:
    choice: Any = {"type": "function", "function": {"name": "route"}}
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, tools=[TOOL], tool_choice=choice, max_tokens=100
    )
    expect(answer.choices[0].message.tool_calls, answer)


def structured() -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "ticket", "schema": SCHEMA, "strict": True}}
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, response_format=form, max_tokens=100)
    expect(answer.choices[0].finish_reason == "stop", answer)


def embeddings() -> str:
    call = lambda: client.embeddings.create(model=MODEL, input="x")  # noqa: E731
    return expect_error(NotFoundError, call, "Embeddings are not served")


def unknown_model() -> str:
    call = lambda: client.chat.completions.create(model=UNKNOWN_MODEL, messages=MESSAGES)  # noqa: E731
    return expect_error(NotFoundError, call, "model_not_found", UNKNOWN_MODEL)


def fine_tuning() -> str:
    with training_file().open("rb") as file:
        uploaded = client.files.create(file=file, purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model=MODEL, training_file=uploaded.id, hyperparameters={"n_epochs": 1})
    wait_until_ended(lambda: client.fine_tuning.jobs.retrieve(job.id).status)
    name = client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model or ""
    client.chat.completions.create(model=name, messages=MESSAGES, max_tokens=MAX_TOKENS)
    return name


CHECKS = {
    "models": models,
    "chat": chat,
    "stream": stream,
    "tools": tools,
    "structured": structured,
    "embeddings": embeddings,
    "unknown model": unknown_model,
    "fine-tuning": fine_tuning,
}

if __name__ == "__main__":
    run(("openai",), CHECKS)
