"""inspect-ai: evaluations with ``openai/``, which is the responses API for it, and with ``openai-api/``."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Literal

from inspect_ai import Task
from inspect_ai import eval as evaluate
from inspect_ai.dataset import Sample
from inspect_ai.model import (
    ChatMessageTool,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ResponseSchema,
    get_model,
)
from inspect_ai.scorer import match
from inspect_ai.solver import generate
from inspect_ai.tool import Tool, tool
from inspect_ai.util import json_schema

from tests.clients.python.checks import (
    API_KEY,
    BASE_URL,
    MAX_TOKENS,
    MODEL,
    QUESTION,
    UNKNOWN_MODEL,
    WORK_FOLDER,
    expect,
    expect_error,
    expect_ticket,
    run,
)
from tests.clients.python.tickets import Ticket

os.environ |= {"FTPIPE_BASE_URL": BASE_URL, "FTPIPE_API_KEY": API_KEY}
NAMES = (f"openai/{MODEL}", f"openai-api/ftpipe/{MODEL}")


@tool
def route() -> Tool:
    async def execute(queue: Literal["billing", "bug"], urgent: bool) -> str:
        """Route a ticket.

        Args:
            queue: Its queue.
            urgent: Whether it is urgent.
        """
        return queue

    return execute


def models_under_test(max_tokens: int) -> list[Model]:
    config = GenerateConfig(max_tokens=max_tokens, max_retries=0)
    return [get_model(name, config=config, memoize=False) for name in NAMES]


def chat() -> str:
    os.environ["INSPECT_LOG_DIR"] = str(WORK_FOLDER)
    for name in NAMES:
        samples = [Sample(input=QUESTION, target="billing", id=number) for number in range(3)]
        task = Task(dataset=samples, solver=generate(), scorer=match())
        [log] = evaluate(task, model=name, max_tokens=MAX_TOKENS, display="none", log_dir=str(WORK_FOLDER))
        expect(log.status == "success" and log.results, log.error)
    return "eval() with a scorer"


def tools() -> None:
    async def call_and_answer(model: Model) -> None:
        output = await model.generate(QUESTION, tools=[route()], tool_choice="any")
        calls = output.message.tool_calls or []
        expect_ticket(calls[0].arguments)
        result = ChatMessageTool(content="done", tool_call_id=calls[0].id, function="route")
        await model.generate([ChatMessageUser(content=QUESTION), output.message, result], tools=[route()])

    for model in models_under_test(100):
        asyncio.run(call_and_answer(model))


def structured() -> None:
    schema = ResponseSchema(name="ticket", json_schema=json_schema(Ticket), strict=True)
    for model in models_under_test(100):
        output = asyncio.run(model.generate(QUESTION, config=GenerateConfig(response_schema=schema)))
        expect_ticket(json.loads(output.completion))


def logprobs() -> None:
    for model in models_under_test(4):
        output = asyncio.run(model.generate(QUESTION, config=GenerateConfig(logprobs=True, top_logprobs=2)))
        expect(output.choices[0].logprobs, output)


def unknown_model() -> str:
    model = get_model(f"openai/{UNKNOWN_MODEL}", memoize=False)
    return expect_error(Exception, lambda: asyncio.run(model.generate(QUESTION)), UNKNOWN_MODEL)


if __name__ == "__main__":
    run(("inspect-ai",), chat, tools, structured, logprobs, unknown_model)
