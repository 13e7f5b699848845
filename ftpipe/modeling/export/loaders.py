"""Load an export for its check, as the program does that it is for."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ftpipe.atomic_files import read_json
from ftpipe.modeling.chat_messages import to_template_messages
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.export.check import Prompt, model_logprobs
from ftpipe.modeling.loading import load_adapter, load_base, load_tokenizer
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
