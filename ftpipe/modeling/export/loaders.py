"""Load an export for its check, as the program does that it is for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr
from dataclasses import replace
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from ftpipe.atomic_files import read_json
from ftpipe.modeling.chat_messages import text_of, to_template_messages
from ftpipe.modeling.chat_template import ChatTemplate
from ftpipe.modeling.chat_tokenizer import ChatTokenizer
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.export.check import Prompt, Reference, model_logprobs
from ftpipe.modeling.export.gguf_writer import adds_bos
from ftpipe.modeling.export.modelfile import MODELFILE, parse_modelfile
from ftpipe.modeling.loading import load_adapter, load_base, load_tokenizer
from ftpipe.modeling.text_encoder import TextEncoder
from ftpipe.modeling.types import CausalModel, Tokenizer

if TYPE_CHECKING:
    import torch

_FLOAT32 = DeviceConfig("cpu", "float32")


class TransformersExport:
    """An adapter or merged weights, in transformers."""

    def __init__(self, model: CausalModel, tokenizer: Tokenizer, folder: Path, *, package: str) -> None:
        self.program = f"{package} {version(package)}"
        eos = (read_json(folder / "generation_config.json") or {}).get("eos_token_id", [])
        self.stop_ids = frozenset([*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id])
        self._model = model
        self._tokenizer = tokenizer

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Token ids of a conversation, with the chat template of the export."""
        template = self._tokenizer.get_chat_template()
        encoded = self._tokenizer.apply_chat_template(
            to_template_messages(prompt.messages, prompt.tools, template),
            tools=list(prompt.tools) if prompt.tools else None,
            add_generation_prompt=True,
            return_dict=True,
        )
        return list(encoded["input_ids"])

    def logprobs(self, prompt_ids: list[int], answer_ids: list[int]) -> torch.Tensor:
        """Log-probabilities of every token, for each position of an answer."""
        return model_logprobs(self._model, prompt_ids, answer_ids)


def load_adapter_export(folder: Path, base_dir: Path) -> TransformersExport:
    """An exported adapter on its base model."""
    model = load_adapter(load_base(base_dir, _FLOAT32), folder).eval()
    return TransformersExport(model, load_tokenizer(folder), folder, package="peft")


def load_merged_export(folder: Path) -> TransformersExport:
    """Exported merged weights."""
    return TransformersExport(load_base(folder, _FLOAT32), load_tokenizer(folder), folder, package="transformers")


class GgufExport:
    """A GGUF file in transformers, with the vocabulary, chat template and tokens that end an answer of the file."""

    def __init__(self, path: Path, base_dir: Path) -> None:
        from gguf import GGUFReader

        self.program = f"transformers {version('transformers')}"
        fields = GGUFReader(path).fields
        ids = [fields[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot") if _has(fields, name)]
        self.stop_ids = frozenset(int(field.contents()) for field in ids)
        template = replace(
            ChatTemplate.load(base_dir), sources={"default": str(fields["tokenizer.chat_template"].contents())}
        )
        self._tokenizer = load_tokenizer(base_dir)
        self._chat_tokenizer = ChatTokenizer(template, TextEncoder(self._tokenizer.backend_tokenizer))
        texts = fields["tokenizer.ggml.tokens"].contents()
        self._ids = {text: id_ for id_, text in enumerate(texts)}
        self._model = _load_gguf(path, base_dir)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Token ids of a conversation: the tokens are looked up in the file."""
        tokens = self._tokenizer.convert_ids_to_tokens(self._chat_tokenizer.prompt(prompt.messages, prompt.tools))
        return [self._ids.get(token, 0) for token in tokens]

    def logprobs(self, prompt_ids: list[int], answer_ids: list[int]) -> torch.Tensor:
        """Log-probabilities of every token, for each position of an answer."""
        return model_logprobs(self._model, prompt_ids, answer_ids)


def _has(fields: Mapping[str, object], name: str) -> bool:
    return f"tokenizer.ggml.{name}_token_id" in fields


def _load_gguf(path: Path, base_dir: Path) -> CausalModel:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base_dir, local_files_only=True)
    rope = getattr(config, "rope_parameters", None) or {}
    # transformers reads neither the factors of rotated positions nor Qwen3's size of heads from the file
    needs_config = rope.get("rope_type", "default") != "default" or config.model_type == "qwen3"
    with redirect_stderr(StringIO()):  # a progress bar
        model = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype="float32", **({"config": config} if needs_config else {})
        )
    return model.eval()


def modelfile_problems(folder: Path, reference: Reference) -> Iterator[str]:
    """What is wrong with the ``Modelfile`` of an export, if it has one."""
    if not (folder / MODELFILE).is_file():
        return
    parsed = parse_modelfile((folder / MODELFILE).read_text(encoding="utf-8"))
    if parsed is None:
        yield "the Modelfile cannot be read"
        return
    texts, stops = parsed
    tokenizer = reference.tokenizer
    if tokenizer.decode([reference.end_of_turn]) not in stops:
        yield f"{tokenizer.decode([reference.end_of_turn])!r} is no stop of the Modelfile"
    for number, answer in enumerate(reference.answers, 1):
        contents = [text_of(message) for message in answer.prompt.messages]
        if answer.prompt.tools or any(content != content.strip() for content in contents):
            continue  # Ollama's language cannot strip texts, and tools are in none of ftpipe's Modelfiles
        text = texts.render(answer.prompt.messages)
        ids = tokenizer(text, add_special_tokens=adds_bos(tokenizer))["input_ids"]
        if ids != answer.prompt_ids:
            yield f"the Modelfile writes prompt {number} differently"
            return
