"""AzureOpenAI of openai-python: the header ``api-key``, and deployments in paths."""

from __future__ import annotations

from functools import partial
from typing import Any

from openai import AzureOpenAI, NotFoundError

from tests.clients.python.checks import (
    API_KEY,
    BASE_URL,
    EMBEDDINGS_REFUSAL,
    MAX_TOKENS,
    MESSAGES,
    MODEL,
    RESPONSE_FORMAT,
    TOOL,
    UNKNOWN_MODEL,
    expect,
    expect_error,
    run,
    training_file,
    wait_until_ended,
)

client = AzureOpenAI(azure_endpoint=BASE_URL.removesuffix("/v1"), api_key=API_KEY, api_version="2025-04-01-preview")


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
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, response_format=RESPONSE_FORMAT, max_tokens=100
    )
    expect(answer.choices[0].finish_reason == "stop", answer)


def embeddings() -> str:
    return expect_error(NotFoundError, lambda: client.embeddings.create(model=MODEL, input="x"), EMBEDDINGS_REFUSAL)


def unknown_model() -> str:
    call = partial(client.chat.completions.create, model=UNKNOWN_MODEL, messages=MESSAGES)
    return expect_error(NotFoundError, call, "model_not_found", UNKNOWN_MODEL)


def fine_tuning() -> str:
    with training_file().open("rb") as file:
        uploaded = client.files.create(file=file, purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model=MODEL, training_file=uploaded.id, hyperparameters={"n_epochs": 1})
    name = wait_until_ended(lambda: client.fine_tuning.jobs.retrieve(job.id))
    client.chat.completions.create(model=name, messages=MESSAGES, max_tokens=MAX_TOKENS)
    return name


if __name__ == "__main__":
    run(("openai",), models, chat, stream, tools, structured, embeddings, unknown_model, fine_tuning)
