"""What is trained of a conversation, on the chat templates of the common families."""

from __future__ import annotations

from typing import Any

import pytest

from ftpipe.modeling.chat_messages import ChatTemplateError, text_of, to_template_messages
from ftpipe.modeling.chat_tokenizer import IGNORE_INDEX, ChatTokenizer, Example
from tests.training.templates import CHATML
from tests.training.tiny_model import chat, tiny_tokenizer

FAMILIES = ["chatml", "chatml_marked", "llama3", "gemma", "mistral"]
END = {"chatml": "<|im_end|>", "chatml_marked": "<|im_end|>", "llama3": "<|eot|>", "gemma": "<end>", "mistral": "</s>"}


def trained_text(tokenizer: Any, example: Example) -> str:
    """The text of the trained tokens, gaps shown as a bar."""
    parts: list[str] = []
    gap = True
    for id_, label in zip(example.ids, example.labels, strict=True):
        if label != IGNORE_INDEX:
            parts.append(("|" if gap and parts else "") + tokenizer.decode([id_]))
        gap = label == IGNORE_INDEX
    return "".join(parts)


@pytest.mark.parametrize("family", FAMILIES)
def test_chat_tokenizer_labels_each_assistant_turn_with_end_token(family: str) -> None:
    """Answers and end-of-turn tokens have labels; nothing else has."""
    tokenizer = tiny_tokenizer(family)
    record = chat("hi there", "hello", "and now?", "bye", system="")
    (example,) = ChatTokenizer.of(tokenizer).examples(record)
    space = " " if family == "mistral" else ""
    end = END[family]
    assert f"{space}hello{end}|{space}bye{end}" == trained_text(tokenizer, example)


@pytest.mark.parametrize("family", FAMILIES)
def test_chat_tokenizer_ids_equal_template_rendering(family: str) -> None:
    """Masking changes no token of the conversation."""
    tokenizer = tiny_tokenizer(family)
    record = chat("hi", "hello", system="")
    (example,) = ChatTokenizer.of(tokenizer).examples(record)
    expected = tokenizer.apply_chat_template(record["messages"], tokenize=True, return_dict=False)
    assert list(expected) == list(example.ids)


def test_chat_tokenizer_labels_agree_with_generation_markers() -> None:
    """Where a template carries markers, they and the prefixes name the same tokens."""
    tokenizer = tiny_tokenizer("chatml_marked")
    record = chat("ünï çode?", "söme – answer", "more", "done")
    (example,) = ChatTokenizer.of(tokenizer).examples(record)
    marked = tokenizer.apply_chat_template(
        record["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert [bool(flag) for flag in marked["assistant_masks"]] == [label != IGNORE_INDEX for label in example.labels]


def test_chat_tokenizer_weight_0_is_not_trained() -> None:
    """The weight is honoured message by message."""
    tokenizer = tiny_tokenizer()
    (example,) = ChatTokenizer.of(tokenizer).examples(chat("a", "one", "b", "two", "c", "three", weights=[1, 0, None]))
    assert trained_text(tokenizer, example) == "one<|im_end|>|three<|im_end|>"


def test_chat_tokenizer_refuses_record_without_trained_message() -> None:
    """Nothing to learn is an error and not a silent row."""
    with pytest.raises(ChatTemplateError, match="no assistant message is trained"):
        ChatTokenizer.of(tiny_tokenizer()).examples(chat("a", "one", weights=[0]))


def test_chat_tokenizer_splits_when_template_rewrites_history() -> None:
    """Each answer is trained as the model will meet it, and the split is counted."""
    tokenizer = tiny_tokenizer("thinking")
    mask = ChatTokenizer.of(tokenizer)
    examples = mask.examples(chat("a", "one", "b", "two"))
    texts = [trained_text(tokenizer, example) for example in examples]
    assert texts == [f"<think>\n\n</think>\n\n{word}<|im_end|>" for word in ("one", "two")]
    assert mask.split_conversations == 1


def test_chat_tokenizer_single_turn_is_not_split() -> None:
    """Only conversations with earlier trained turns are split."""
    mask = ChatTokenizer.of(tiny_tokenizer("thinking"))
    assert len(mask.examples(chat("a", "one"))) == 1
    assert mask.split_conversations == 0


def test_chat_tokenizer_refuses_template_without_end_of_turn() -> None:
    """A model that is never taught to stop is not made."""
    with pytest.raises(ChatTemplateError, match="never stop"):
        ChatTokenizer.of(tiny_tokenizer("endless")).examples(chat("a", "one"))


@pytest.mark.parametrize(
    ("family", "record", "reason"),
    [
        ("gemma", chat("a", "one"), "System role not supported"),
        ("mistral", {"messages": [{"role": "assistant", "content": "x"}]}, "alternate"),
    ],
)
def test_chat_tokenizer_reports_template_error(family: str, record: dict[str, Any], reason: str) -> None:
    """The reason is the template's own."""
    with pytest.raises(ChatTemplateError, match=reason):
        ChatTokenizer.of(tiny_tokenizer(family)).examples(record)


def test_chat_tokenizer_refuses_base_without_template() -> None:
    """A base model that was never taught to chat has none."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ChatTemplateError, match="no chat template"):
        ChatTokenizer.of(tokenizer)


def test_chat_tokenizer_end_of_turn() -> None:
    """Generation stops at the token that training ends turns with."""
    for family, end in END.items():
        tokenizer = tiny_tokenizer(family)
        assert tokenizer.convert_tokens_to_ids(end) == ChatTokenizer.of(tokenizer).end_of_turn()


def test_chat_tokenizer_prompt_ends_with_generation_prompt() -> None:
    """Prompt tokens are the start of the training sequence."""
    tokenizer = tiny_tokenizer()
    mask = ChatTokenizer.of(tokenizer)
    record = chat("hi", "hello")
    (example,) = mask.examples(record)
    prompt = mask.prompt(record["messages"][:-1])
    assert prompt == list(example.ids[: len(prompt)])
    assert example.labels[len(prompt)] != IGNORE_INDEX


def test_chat_tokenizer_pair_trains_last_turn_only() -> None:
    """Both answers of a preference record follow the same prompt."""
    tokenizer = tiny_tokenizer()
    record = {
        "input": chat("a", "earlier", "b"),
        "preferred_output": [{"role": "assistant", "content": "good"}],
        "non_preferred_output": [{"role": "assistant", "content": "bad"}],
    }
    chosen, rejected = ChatTokenizer.of(tokenizer).pair(record)
    assert [trained_text(tokenizer, e) for e in (chosen, rejected)] == ["good<|im_end|>", "bad<|im_end|>"]


def test_template_messages_write_tool_calls_as_text() -> None:
    """A call is learnt as JSON text and not dropped."""
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"order": 7}'}}
    record = {"messages": [{"role": "user", "content": "where?"}, {"role": "assistant", "tool_calls": [call]}]}
    tokenizer = tiny_tokenizer()
    (example,) = ChatTokenizer.of(tokenizer).examples(record)
    text = trained_text(tokenizer, example)
    assert text == '<tool_call>\n{"name": "find", "arguments": {"order": 7}}\n</tool_call><|im_end|>'


def test_template_messages_list_tools_in_system_message() -> None:
    """The model sees what it may call."""
    tool = {"type": "function", "function": {"name": "find"}}
    with_system = to_template_messages(chat("a")["messages"], [tool], CHATML)
    without = to_template_messages(chat("a", system="")["messages"], [tool], CHATML)
    assert with_system[0]["content"].startswith("Route the ticket.\n\nYou may call")
    assert '"find"' in without[0]["content"]
    assert [m["role"] for m in without] == ["system", "user"]


def test_template_messages_convert_api_messages() -> None:
    """Developer becomes system, parts become one string, a refusal is text."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    fitted = to_template_messages([{"role": "developer", "content": parts}], None, CHATML)
    assert fitted == [{"role": "system", "content": "ab"}]
    assert text_of({"role": "assistant", "content": None, "refusal": "no"}) == "no"


def test_template_messages_refuse_images() -> None:
    """Local bases read text."""
    with pytest.raises(ChatTemplateError, match="image_url"):
        text_of({"content": [{"type": "image_url", "image_url": {"url": "x"}}]})


def test_example_truncate_drops_the_end() -> None:
    """A long row keeps its beginning."""
    assert Example((1, 2, 3), (IGNORE_INDEX, 2, 3)).truncate(2) == Example((1, 2), (IGNORE_INDEX, 2))
