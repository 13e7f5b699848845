"""DSPy: ``dspy.LM``, its JSON adapter, and ``finetune()`` with OpenAI's provider."""

from __future__ import annotations

import asyncio
from typing import Literal

import dspy

from tests.clients.python.checks import (
    API_KEY,
    BASE_URL,
    EMBEDDINGS_REFUSAL,
    MAX_TOKENS,
    MODEL,
    QUESTION,
    TRAINING_ROWS,
    UNKNOWN_MODEL,
    expect,
    expect_error,
    expect_ticket,
    run,
)

KNOWN_MODEL = "gpt-4o-mini"
"""LiteLLM knows that it takes schemas, so DSPy sends one; the server answers with its base model."""


class Route(dspy.Signature):
    """Route a ticket."""

    ticket: str = dspy.InputField()
    queue: Literal["billing", "bug"] = dspy.OutputField()
    urgent: bool = dspy.OutputField()


def language_model(name: str = MODEL, max_tokens: int = MAX_TOKENS, **options: object) -> dspy.LM:
    return dspy.LM(
        f"openai/{name}",
        api_base=BASE_URL,
        api_key=API_KEY,
        max_tokens=max_tokens,
        cache=False,
        num_retries=0,
        **options,
    )


def chat() -> None:
    expect(language_model()(QUESTION), "no answer")
    expect(language_model(model_type="responses")(QUESTION), "no response")
    expect(language_model(model_type="text")(QUESTION), "no completion")


def stream() -> None:
    async def streamed() -> list[object]:
        with dspy.context(lm=language_model(KNOWN_MODEL, max_tokens=200), adapter=dspy.JSONAdapter()):
            return [part async for part in dspy.streamify(dspy.Predict(Route))(ticket=QUESTION)]

    expect(isinstance(asyncio.run(streamed())[-1], dspy.Prediction), "no prediction")


def structured() -> None:
    with dspy.context(lm=language_model(KNOWN_MODEL, max_tokens=200), adapter=dspy.JSONAdapter()):
        answer = dspy.Predict(Route)(ticket=QUESTION)
    expect_ticket({"queue": answer.queue, "urgent": answer.urgent})


def embeddings() -> str:
    embedder = dspy.Embedder(f"openai/{MODEL}", api_base=BASE_URL, api_key=API_KEY, caching=False)
    return expect_error(Exception, lambda: embedder(["x"]), EMBEDDINGS_REFUSAL)


def unknown_model() -> str:
    return expect_error(Exception, lambda: language_model(UNKNOWN_MODEL)(QUESTION), UNKNOWN_MODEL)


def fine_tuning() -> str:
    model = language_model(train_kwargs={"n_epochs": 1})
    expect(type(model.provider).__name__ == "OpenAIProvider", model.provider)
    job = model.finetune(TRAINING_ROWS, "chat")
    tuned = job.result()
    expect(not isinstance(tuned, Exception), tuned)
    named = tuned.copy(model=f"openai/{tuned.model}")  # LiteLLM does not know a provider for the bare name
    expect(named(QUESTION), "no answer of the tuned model")
    return str(tuned.model)


if __name__ == "__main__":
    run(("dspy", "litellm"), chat, stream, structured, embeddings, unknown_model, fine_tuning)
