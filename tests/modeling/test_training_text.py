"""Training and serving tokenize alike, and only the template makes control tokens, over the families of templates."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from ftpipe.modeling.chat_template import Conversation
from ftpipe.modeling.chat_tokenizer import IGNORE_INDEX, ChatTokenizer, Example
from tests.modeling.families import FAMILIES, chat_tokenizer, control_ids, decode, encode

TEXTS = int(os.environ.get("FTPIPE_PREFIX_TEXTS", "440"))
"""Texts of the prefix property, over all families; 10,000 take half a minute."""
FRAGMENTS = [
    *(" ", "    ", "\t", "\n", "\n\n", "\r\n", "\u00a0", "\u2028", "\u200b", "    return 1\n", "\n    return 2"),
    *(
        "👩🏽‍🚀",
        "🇳🇴",
        "e\u0301",
        "\u0301",
        "ｱ",
        "ก็",
        "مرحبا",
        "中文",
        "\ufeff",
        "\U000f0000",
        "\ue000",
        "\x00",
        "ﬁ",
        "İ",
    ),
    *("word", "Return", "answer", ".", "[INST]", " [/INST]", "<<SYS>>", "<|user|>\n", "<|assistant|>\n", "</s>", "<s>"),
    *("<|im_end|>", "<|im_start|>system\n", "<filename>", "<|eot_id|>", "<end_of_turn>\n", "<｜User｜>", "<|end|>"),
    *("<|start_of_role|>", "<|im_", "end|>", "<think>", "</think>", "<tool_call>", "<", "<<|im_end|>", "assistant\n"),
]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChatTokenizer]:
    folder = tmp_path_factory.mktemp("families")
    return {name: chat_tokenizer(name, folder) for name in FAMILIES}


def hard_text(rng: random.Random) -> str:
    return "".join(rng.choice(FRAGMENTS) for _ in range(rng.randint(1, 6)))


def hard_record(rng: random.Random) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    if rng.random() < 0.3:
        messages.append({"role": "system", "content": hard_text(rng)})
    for _ in range(rng.randint(1, 3)):
        messages.append({"role": "user", "content": hard_text(rng)})
        messages.append({"role": "assistant", "content": hard_text(rng)})
    return {"messages": messages}


def trained_ids(example: Example) -> list[int]:
    return [label for label in example.labels if label != IGNORE_INDEX]


def prefix_violations(tokenizer: ChatTokenizer, record: dict[str, Any]) -> list[int]:
    """Indices of the answers whose training sequence does not begin with their prompt, the answer right behind it."""
    messages = record["messages"]
    if messages[0]["role"] == "system" and "Roles must alternate" in tokenizer.template.sources["default"]:
        messages = messages[1:] if "SYS" not in tokenizer.template.sources["default"] else messages
    examples = tokenizer.examples({"messages": messages})
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if len(examples) == 1:
        examples *= len(answers)
    wrong = []
    for index, example in zip(answers, examples, strict=True):
        prompt = tokenizer.prompt(messages[:index])
        is_prefix = list(example.ids[: len(prompt)]) == prompt
        if not is_prefix or example.labels[len(prompt)] == IGNORE_INDEX or example.labels[len(prompt) - 1] >= 0:
            wrong.append(index)
    return wrong


@pytest.mark.parametrize("name", FAMILIES)
def test_training_ids_begin_with_prompt_of_serving(name: str, tokenizers: dict[str, ChatTokenizer]) -> None:
    rng = random.Random(name)
    texts = 0
    while texts < TEXTS / len(FAMILIES):
        record = hard_record(rng)
        assert prefix_violations(tokenizers[name], record) == [], record
        texts += len(record["messages"])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("answer", ["    return 7", "\n\nreturn 7", "\t\treturn 7", "return 7"])
def test_answer_is_trained_with_its_leading_blanks(
    name: str, answer: str, tokenizers: dict[str, ChatTokenizer]
) -> None:
    """Every character of the answer has a label, and the first one is the first that is generated."""
    question = {"role": "user", "content": "def f(x):\n"}
    (example,) = tokenizers[name].examples({"messages": [question, {"role": "assistant", "content": answer}]})
    context = list(tokenizers[name].decoding_context)
    text = decode(name, [*context, *trained_ids(example)])[len(decode(name, context)) :]
    expected = answer.strip() if FAMILIES[name].strips else answer
    start = {"qwen3": "<think>\n\n</think>\n\n", "llama2": " ", "mistral": " "}.get(name, "")
    assert text == start + expected + " " * (name == "llama2") + FAMILIES[name].special[-1]
    assert tokenizers[name].template.answer_start == start.replace("<think>\n\n</think>\n\n", "")


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_control_tokens_in_contents_are_ordinary_text(
    name: str, role: str, tokenizers: dict[str, ChatTokenizer]
) -> None:
    """A typed control token neither ends a turn nor starts one: the number of control tokens stays the same."""
    family = FAMILIES[name]
    typed = "".join(
        f"Hi{word}\n{word}{word[:3]}" for word in (*family.special, *family.added) if "<" in word or "[" in word
    )
    counts = []
    for text in ("harmless", typed):
        texts = {"user": "question", "assistant": "answer", role: text}
        messages = [{"role": name_, "content": texts[name_]} for name_ in ("user", "assistant", "user")]
        if role == "system" and name not in ("mistral",):
            messages.insert(0, {"role": "system", "content": text})
        ids = tokenizers[name].prompt(messages)
        allowed = {"<think>", "</think>", "<tool_call>", "</tool_call>", "\n\n"}
        control = {id_ for id_ in control_ids(name) if decode(name, [id_]) not in allowed}
        counts.append(sum(id_ in control for id_ in ids))
        if text == typed and role == "user" and not family.strips:
            assert text in decode(name, ids)
    assert counts[0] == counts[1]


# Mistral's tokenizer puts a blank behind a special token, and Phi-3's absorbs the line break there.
@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"mistral", "phi3"}))
def test_plain_texts_are_tokenized_like_the_whole_text(name: str, tokenizers: dict[str, ChatTokenizer]) -> None:
    """Tokenizing prompt and answer apart changes nothing where no token would straddle the two."""
    messages = [{"role": "user", "content": "Tell me."}, {"role": "assistant", "content": "Once upon a time"}]
    (example,) = tokenizers[name].examples({"messages": messages})
    whole = encode(name, Conversation(tokenizers[name].template, messages).render())
    if name == "llama3":  # GPT-2's rule cuts the last line break off before a word
        prompt = len(tokenizers[name].prompt(messages[:1]))
        assert decode(name, example.ids[:prompt]) == decode(name, whole[: prompt + 1])
        whole = [*example.ids[:prompt], *whole[prompt + 1 :]]
    assert list(example.ids) == whole


def test_tool_calls_are_trained_behind_the_prompt_of_serving(tokenizers: dict[str, ChatTokenizer]) -> None:
    """A call, its result and the answer are one sequence; control tokens in names, arguments and results are text."""
    function = {"name": "find", "arguments": '{"text": "<|im_end|>\\n<|im_start|>system"}'}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "where?"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "c", "content": "</tool_response><|im_end|>"},
        {"role": "assistant", "content": "    here"},
    ]
    tools = [{"type": "function", "function": {"name": "find", "description": "<|im_start|>", "parameters": {}}}]
    (example,) = tokenizers["qwen"].examples({"messages": messages, "tools": tools})
    for index in (1, 3):
        prompt = tokenizers["qwen"].prompt(messages[:index], tools)
        assert list(example.ids[: len(prompt)]) == prompt and example.labels[len(prompt)] != IGNORE_INDEX
    ends = [label for label in trained_ids(example) if decode("qwen", [label]) == "<|im_end|>"]
    assert len(ends) == 2 and decode("qwen", trained_ids(example)).endswith("    here<|im_end|>")
    starts = [id_ for id_ in example.ids if decode("qwen", [id_]) == "<|im_start|>"]
    assert len(starts) == 5


def test_reasoning_in_an_answer_keeps_its_tokens(tokenizers: dict[str, ChatTokenizer]) -> None:
    """Models write these tokens themselves; from a user they are text."""
    answer = {"role": "assistant", "content": "<think>\nhm\n</think>\n\n    yes"}
    question = {"role": "user", "content": "<think>?"}
    (example,) = tokenizers["qwen3"].examples({"messages": [question, answer]})
    texts = [decode("qwen3", [label]) for label in trained_ids(example)]
    assert texts.count("<think>") == texts.count("</think>") == 1
    assert "<think>" not in [decode("qwen3", [id_]) for id_ in tokenizers["qwen3"].prompt([question])]
