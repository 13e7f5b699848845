"""llama.cpp with the same base model, for comparison; from the package xllamacpp, which has wheels for processors."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from ftpipe.modeling.chat_tokenizer import ChatTokenizer
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.export import gguf_writer
from ftpipe.modeling.loading import load_base

if TYPE_CHECKING:
    import torch

CONTEXT_TOKENS = 512
"""For each client."""


def is_available() -> bool:
    """Whether the packages are installed."""
    return find_spec("xllamacpp") is not None and find_spec("gguf") is not None


def write_quantized(base: Path, path: Path, quantization: str) -> Path:
    """A GGUF file of a base model.

    Args:
        base: Its folder.
        path: The file.
        quantization: Such as ``Q8_0`` or ``Q4_1``.
    """
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    kind = GGMLQuantizationType[quantization]

    def write_tensors(
        writer: Any,  # untyped
        tensors: Mapping[str, torch.Tensor],
        _is_float16: bool,
        _on_progress: Callable[[int, int], None],
    ) -> None:
        for name, tensor in tensors.items():
            data = tensor.detach().float().numpy()
            if data.ndim < 2:
                writer.add_tensor(name, data)
            else:
                writer.add_tensor(name, quantize(data, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()

    with patch.object(gguf_writer, "_write_tensors", write_tensors):
        gguf_writer.write_gguf(
            load_base(base, DeviceConfig("cpu", "float32")),
            base,
            path,
            end_of_turn=ChatTokenizer.load(base).end_of_turn(),
            name=base.name,
            on_progress=lambda _done, _total: None,
        )
    return path


class LlamaServer:
    """llama.cpp's server in this process.

    Args:
        path: GGUF file.
        clients: Chats that are computed at the same time.
        threads: That compute.
    """

    def __init__(self, path: Path, clients: int, threads: int) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_parallel = clients
        params.n_ctx = clients * CONTEXT_TOKENS
        params.n_gpu_layers = 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.verbosity = 0
        self._server = xllamacpp.Server(params)

    def chat(self, messages: list[dict[str, Any]], max_tokens: int) -> tuple[int, float]:
        """Answer a chat.

        Returns:
            Tokens of the answer, and seconds to the first of them.
        """
        begun = time.perf_counter()
        first = 0.0
        tokens = 0

        def receive(chunk: str | Mapping[str, Any]) -> None:
            nonlocal first, tokens
            body = json.loads(chunk) if isinstance(chunk, str) else chunk
            if any(choice["delta"].get("content") for choice in body.get("choices", [])):
                first = first or time.perf_counter() - begun
            tokens = (body.get("usage") or {}).get("completion_tokens", tokens)

        request = {
            "messages": messages,
            "max_tokens": max_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        self._server.handle_chat_completions(json.dumps(request), receive)
        return tokens, first
