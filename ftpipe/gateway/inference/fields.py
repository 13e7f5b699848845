"""What of a client's request reaches the inference server: checked fields only.

Inference servers have parameters of their own that a client must not set: SGLang's ``lora_path`` chooses another
owner's adapter and ``custom_logit_processor`` runs code, ``kv_transfer_params`` and ``bootstrap_host`` connect to other
machines, and images are fetched from URLs. So fields are passed by name, and messages as this server understands them.

Source: ``vllm/entrypoints/openai/chat_completion/protocol.py`` and ``srt/entrypoints/openai/protocol.py``, read
2026-11-29.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ftpipe.gateway.inference.tool_forms import messages_with_tool_calls, needs_functions, tool_fields
from ftpipe.server.api.chat_schemas import ChatRequest, parse_chat, template_messages
from ftpipe.server.api.chat_tools import TOOL_CHOICE, TOOLS, ChatTools, parse_chat_tools
from ftpipe.server.api.completion_schemas import CompletionRequest, parse_completion
from ftpipe.server.api.schemas import without_ignored

OWN_FIELDS = frozenset({
    *("model", "messages", "store", "metadata", "user", "safety_identifier", "service_tier", "moderation"),
    *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "audio", "modalities", "prediction"),
    *("functions", "function_call", "verbosity", "web_search_options"),
})  # fmt: skip
"""Fields of a chat that this server serves itself, or that local models do not have."""
TEMPLATE_PARAMETERS = frozenset({
    *("conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt"),
    *("continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
    *("return_assistant_tokens_mask", "tokenizer_kwargs"),
})  # fmt: skip
"""Parameters of the function that renders a template; as variables of the template they could stop the server.

Source: CVE-2025-62426 (vLLM before 0.11.1), https://nvd.nist.gov/vuln/detail/CVE-2025-62426, 2026-11-29."""


@dataclass(frozen=True, slots=True)
class ForwardedBody:
    """What is passed on of a request.

    Attributes:
        fields: All but the model's name.
        tools: What a chat's answer can call, if the inference server gets it in another form.
    """

    fields: Mapping[str, Any]
    tools: ChatTools = field(default_factory=ChatTools)


def read_chat(body: Mapping[str, Any]) -> ForwardedBody:
    """What is passed on of a chat.

    Raises:
        ApiError: 400, as for a chat that this server answers itself.
    """
    body = without_ignored(body)
    chat = parse_chat(body)
    tools = parse_chat_tools(chat)
    names = ChatRequest.model_fields.keys() - OWN_FIELDS
    passed = {name: body[name] for name in sorted(names) if body.get(name) is not None}
    variables = passed.get("chat_template_kwargs")
    if isinstance(variables, Mapping):
        passed["chat_template_kwargs"] = {
            name: value for name, value in variables.items() if name not in TEMPLATE_PARAMETERS
        }
    passed["messages"] = messages_with_tool_calls(template_messages(chat.messages))
    if not needs_functions(chat, tools):
        return ForwardedBody(passed)
    others = {name: value for name, value in passed.items() if name not in (TOOLS, TOOL_CHOICE)}
    return ForwardedBody({**others, **tool_fields(tools)}, tools)


def read_completion(body: Mapping[str, Any]) -> ForwardedBody:
    """What is passed on of a completion.

    Raises:
        ApiError: 400, as for a completion that this server answers itself.
    """
    body = without_ignored(body)
    parse_completion(body)
    names = CompletionRequest.model_fields.keys() - OWN_FIELDS
    return ForwardedBody({name: body[name] for name in sorted(names) if body.get(name) is not None})


@dataclass(frozen=True, slots=True)
class ForwardedApi:
    """A route of the inference server, and what of a request it gets."""

    path: str
    prefix: str
    """Of an answer's id."""
    read: Callable[[Mapping[str, Any]], ForwardedBody]


CHATS = ForwardedApi("/chat/completions", "chatcmpl-", read_chat)
COMPLETIONS = ForwardedApi("/completions", "cmpl-", read_completion)
