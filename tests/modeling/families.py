"""Small tokenizers in the manner of ten model families: their chat template, control tokens and kind of tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ftpipe.modeling.chat_tokenizer import ChatTokenizer

TOOL_TURNS = (
    "{% if m.tool_calls %}{% for c in m.tool_calls %}{% if not loop.first or m.content %}\n{% endif %}"
    '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}{% endif %}"
)
QWEN = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n"
    "</tool_response><|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}" + TOOL_TURNS + "<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN3 = (
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}{% set text = m.content %}{% set thought = '' %}"
    "{% if '</think>' in text %}{% set thought = text.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}<|im_start|>assistant\n"
    "{% if loop.index0 > ns.last %}<think>\n{{ thought }}\n</think>\n\n{% endif %}{{ text }}<|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOLLM2 = (
    "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
ALTERNATE = (
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest, system = messages[1:], messages[0]['content'] %}"
    "{% else %}{% set rest, system = messages, '' %}{% endif %}{% for m in rest %}"
    + ALTERNATE
    + "{% if m['role'] == 'user' %}{{ bos_token }}[INST] "
    "{% if loop.first and system %}<<SYS>>\n{{ system }}\n<</SYS>>\n\n{% endif %}{{ m['content'].strip() }} [/INST]"
    "{% else %} {{ m['content'].strip() }} {{ eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    + ALTERNATE
    + "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set rest, start = messages[1:], messages[0]['content'] "
    "+ '\n\n' %}{% else %}{% set rest, start = messages, '' %}{% endif %}{% for m in rest %}"
    + ALTERNATE
    + "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ start if loop.first else '' }}"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI3 = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] + eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}<｜User｜>{{ m['content'] }}"
    "{% elif m['role'] == 'assistant' %}<｜Assistant｜>{{ m['content'] }}<｜end▁of▁sentence｜>"
    "{% else %}{{ m['content'] }}\n\n{% endif %}{% endfor %}{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)
GRANITE = (
    "{% for m in messages %}<|start_of_role|>{{ m['role'] }}<|end_of_role|>{{ m['content'] }}<|end_of_text|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A chat template with its tokenizer.

    Attributes:
        template: The chat template.
        special: Special tokens; the first is the start of a text, the last the end of a turn.
        added: Added tokens that are not declared special.
        kind: ``bytes`` for byte-level BPE (GPT-2), ``blank`` for BPE that puts a blank before a text (Llama 2),
            ``plain`` for BPE that does not (Gemma).
        strips: Whether the template removes whitespace around contents.
        absorbs: Whether special tokens take the whitespace that follows them.
        eos: The end of a text, if it is not the end of a turn.
    """

    template: str
    special: tuple[str, ...]
    added: tuple[str, ...] = ()
    kind: str = "bytes"
    strips: bool = False
    absorbs: bool = False
    eos: str = ""


FAMILIES = {
    "qwen": Family(QWEN, ("<|im_start|>", "<|im_end|>"), ("<tool_call>", "</tool_call>")),
    "qwen3": Family(QWEN3, ("<|im_start|>", "<|im_end|>"), ("<think>", "</think>")),
    "smollm2": Family(SMOLLM2, ("<|endoftext|>", "<filename>", "<|im_start|>", "<|im_end|>")),
    "llama3": Family(
        LLAMA3, ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), strips=True
    ),
    "llama2": Family(LLAMA2, ("<s>", "</s>"), kind="blank", strips=True),
    "mistral": Family(MISTRAL, ("<s>", "[INST]", "[/INST]", "</s>"), kind="blank"),
    "gemma": Family(GEMMA, ("<bos>", "<start_of_turn>", "<end_of_turn>"), ("\n\n",), kind="plain", strips=True),
    "phi3": Family(
        PHI3,
        ("<s>", "<|user|>", "<|system|>", "<|assistant|>", "<|endoftext|>", "<|end|>"),
        kind="blank",
        absorbs=True,
        eos="<|endoftext|>",
    ),
    "zephyr": Family(ZEPHYR, ("<s>", "</s>"), kind="blank"),
    "deepseek": Family(
        DEEPSEEK, ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"), ("<｜User｜>", "<｜Assistant｜>")
    ),
    "granite": Family(GRANITE, ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>")),
}
CORPUS = [
    "def f(x):\n    if x:\n        return 1\n    return 2\n\n\nclass A:\n    pass\n" * 20,
    "system\nuser\nassistant\nmodel\n[INST] Tell me a story. [/INST] Once upon a time\n\n there was  a  cat.\n" * 20,
    " <|user|>\n <|assistant|>\n return return return answer answer question\n\t\tx = 1\r\n" * 20,
]


@cache
def backend(name: str) -> Any:
    """The tokenizer of a family, of the package ``tokenizers``."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    family = FAMILIES[name]
    if family.kind == "bytes":
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name != "granite")
        inner.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    else:
        inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        inner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # no token has several words
        blank = normalizers.Replace(" ", "▁")
        first = [normalizers.Prepend("▁")] if family.kind == "blank" else []
        inner.normalizer = normalizers.Sequence([*first, blank])
        parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        inner.decoder = decoders.Sequence(parts + ([decoders.Strip(" ", 1, 0)] if first else []))
        alphabet = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        initial_alphabet=alphabet if family.kind == "bytes" else [],
        special_tokens=[] if family.kind == "bytes" else alphabet,
        show_progress=False,
    )
    inner.train_from_iterator(CORPUS, trainer)
    if family.kind != "bytes":  # what the trainer needed as special tokens are ordinary ones
        data = json.loads(inner.to_str())
        inner = Tokenizer.from_str(json.dumps({**data, "added_tokens": []}))
    special = [AddedToken(word, rstrip=family.absorbs, special=True, normalized=False) for word in family.special]
    inner.add_special_tokens(special)
    inner.add_tokens([AddedToken(word, normalized=False) for word in family.added])
    return inner


def save_tokenizer(name: str, folder: Path) -> Path:
    """Write the tokenizer of a family as the files of a model folder."""
    family = FAMILIES[name]
    folder.mkdir(parents=True, exist_ok=True)
    backend(name).save(str(folder / "tokenizer.json"))
    named = {"bos_token": family.special[0], "eos_token": family.eos or family.special[-1]}
    config = {"chat_template": family.template, "tokenizer_class": "PreTrainedTokenizerFast", **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def encode(name: str, text: str) -> list[int]:
    """The ids of a whole text, special tokens included."""
    return list(backend(name).encode(text, add_special_tokens=False).ids)


def decode(name: str, ids: Iterator[int] | list[int] | tuple[int, ...]) -> str:
    """The text of some ids, special tokens included."""
    return str(backend(name).decode(list(ids), skip_special_tokens=False))


def control_ids(name: str) -> frozenset[int]:
    """Ids of the special and added tokens."""
    return frozenset(backend(name).get_added_tokens_decoder())


def chat_tokenizer(name: str, folder: Path) -> ChatTokenizer:
    """The chat tokenizer of a family."""
    return ChatTokenizer.load(save_tokenizer(name, folder / name))
