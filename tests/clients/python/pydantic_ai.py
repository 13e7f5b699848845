"""pydantic-ai: ``openai:``, which is the responses API, and ``openai-chat:``."""

from __future__ import annotations

import asyncio
from functools import partial

from pydantic_ai import Agent, Embedder, ModelRequest, NativeOutput, ToolOutput, ToolReturnPart
from pydantic_ai.direct import model_request_sync
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from tests.clients.python.checks import (
    EMBEDDINGS_REFUSAL,
    MAX_TOKENS,
    MODEL,
    QUESTION,
    SCHEMA,
    UNKNOWN_MODEL,
    expect,
    expect_error,
    expect_ticket,
    run,
)
from tests.clients.python.tickets import Ticket

PREFIXES = ("openai", "openai-chat")


def settings(max_tokens: int = MAX_TOKENS) -> ModelSettings:
    return ModelSettings(max_tokens=max_tokens)


def chat() -> str:
    for prefix in PREFIXES:
        result = Agent(f"{prefix}:{MODEL}", instructions="Answer.").run_sync(QUESTION, model_settings=settings())
        again = Agent(f"{prefix}:{MODEL}").run_sync(
            "And now?", message_history=result.all_messages(), model_settings=settings()
        )
        expect(again.usage.input_tokens > 0, again)
    return " and ".join(PREFIXES)


def stream() -> None:
    async def streamed(prefix: str) -> str:
        async with Agent(f"{prefix}:{MODEL}").run_stream(QUESTION, model_settings=settings()) as result:
            texts = [text async for text in result.stream_text(delta=True, debounce_by=None)]
            expect("".join(texts) == await result.get_output(), texts)
            return result.response.finish_reason or ""

    for prefix in PREFIXES:
        expect(asyncio.run(streamed(prefix)) in ("stop", "length"), prefix)


def tools() -> None:
    route = ToolDefinition(name="route", description="Route a ticket.", parameters_json_schema=SCHEMA)
    parameters = ModelRequestParameters(function_tools=[route])
    question: list[ModelMessage] = [ModelRequest.user_text_prompt(QUESTION)]
    for prefix in PREFIXES:
        forced = ModelSettings(max_tokens=100, tool_choice="required")
        answer = model_request_sync(
            f"{prefix}:{MODEL}", question, model_settings=forced, model_request_parameters=parameters
        )
        call = answer.tool_calls[0]
        expect_ticket(call.args_as_dict())
        result = ModelRequest(parts=[ToolReturnPart("route", "done", call.tool_call_id)])
        model_request_sync(
            f"{prefix}:{MODEL}",
            [*question, answer, result],
            model_settings=settings(),
            model_request_parameters=parameters,
        )


def structured() -> str:
    for prefix in PREFIXES:
        for form in (ToolOutput(Ticket), NativeOutput(Ticket)):
            result = Agent(f"{prefix}:{MODEL}", output_type=form).run_sync(QUESTION, model_settings=settings(100))
            expect(isinstance(result.output, Ticket), result)
    return "tool and native"


def embeddings() -> str:
    embedder = Embedder(f"openai:{MODEL}")
    return expect_error(ModelHTTPError, lambda: embedder.embed_query_sync("x"), EMBEDDINGS_REFUSAL)


def unknown_model() -> str:
    for prefix in PREFIXES:
        ask = partial(Agent(f"{prefix}:{UNKNOWN_MODEL}").run_sync, QUESTION)
        expect_error(ModelHTTPError, ask, "404", UNKNOWN_MODEL)
    return "ModelHTTPError 404"


if __name__ == "__main__":
    run(("pydantic-ai-slim",), chat, stream, tools, structured, embeddings, unknown_model)
