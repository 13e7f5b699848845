"""LiteLLM: chats and responses with the prefix ``openai/``, and its functions for files and fine-tuning jobs."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import litellm

from tests.clients.python.checks import (
    API_KEY,
    BASE_URL,
    EMBEDDINGS_REFUSAL,
    MAX_TOKENS,
    MESSAGES,
    MODEL,
    QUESTION,
    RESPONSE_FORMAT,
    TOOL,
    UNKNOWN_MODEL,
    expect,
    expect_error,
    expect_ticket,
    run,
    training_file,
    wait_until_ended,
)

NAME = f"openai/{MODEL}"
WHERE: dict[str, Any] = {"api_base": BASE_URL, "api_key": API_KEY}


def models() -> None:
    names = litellm.get_valid_models(check_provider_endpoint=True, custom_llm_provider="openai", **WHERE)
    expect(any(name.endswith(MODEL) for name in names), names[:10])


def chat() -> None:
    answer = litellm.completion(model=NAME, messages=MESSAGES, max_tokens=MAX_TOKENS)
    expect(answer.usage.prompt_tokens > 0, answer)
    response = litellm.responses(model=NAME, input=QUESTION, max_output_tokens=MAX_TOKENS)
    expect(response.usage.input_tokens > 0, response)
    text = litellm.text_completion(model=f"text-completion-openai/{MODEL}", prompt="hi", max_tokens=MAX_TOKENS, **WHERE)
    expect(text.choices, text)


def stream() -> None:
    chunks = list(litellm.completion(model=NAME, messages=MESSAGES, max_tokens=MAX_TOKENS, stream=True))
    expect(chunks[-1].choices[0].finish_reason, chunks)
    events = list(litellm.responses(model=NAME, input=QUESTION, max_output_tokens=MAX_TOKENS, stream=True))
    expect(events[-1].type in ("response.completed", "response.incomplete"), events)


def tools() -> None:
    answer = litellm.completion(model=NAME, messages=MESSAGES, tools=[TOOL], tool_choice="required", max_tokens=100)
    message = answer.choices[0].message
    expect_ticket(json.loads(message.tool_calls[0].function.arguments))
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "done"}
    litellm.completion(model=NAME, messages=[*MESSAGES, message, result], tools=[TOOL], max_tokens=MAX_TOKENS)
    chunks = list(
        litellm.completion(
            model=NAME, messages=MESSAGES, tools=[TOOL], tool_choice="required", max_tokens=100, stream=True
        )
    )
    streamed = litellm.stream_chunk_builder(chunks)
    expect(streamed and streamed.choices[0].message.tool_calls, streamed)


def structured() -> None:
    answer = litellm.completion(model=NAME, messages=MESSAGES, response_format=RESPONSE_FORMAT, max_tokens=100)
    expect_ticket(json.loads(answer.choices[0].message.content))


def embeddings() -> str:
    call = partial(litellm.embedding, model=NAME, input=["x"])
    return expect_error(litellm.exceptions.NotFoundError, call, EMBEDDINGS_REFUSAL)


def unknown_model() -> str:
    call = partial(litellm.completion, model=f"openai/{UNKNOWN_MODEL}", messages=MESSAGES)
    return expect_error(litellm.exceptions.NotFoundError, call, UNKNOWN_MODEL)


def fine_tuning() -> str:
    with training_file().open("rb") as file:
        uploaded = litellm.create_file(file=file, purpose="fine-tune", custom_llm_provider="openai", **WHERE)
    job = litellm.create_fine_tuning_job(
        model=MODEL,
        training_file=uploaded.id,
        hyperparameters={"n_epochs": 1},
        custom_llm_provider="openai",
        **WHERE,
    )
    name = wait_until_ended(partial(litellm.retrieve_fine_tuning_job, job.id, custom_llm_provider="openai", **WHERE))
    litellm.completion(model=f"openai/{name}", messages=MESSAGES, max_tokens=MAX_TOKENS)
    listed = litellm.list_fine_tuning_jobs(custom_llm_provider="openai", **WHERE)
    expect(job.id in [each.id for each in listed.data], listed)
    return name


if __name__ == "__main__":
    run(("litellm",), models, chat, stream, tools, structured, embeddings, unknown_model, fine_tuning)
