"""Write merged weights as a GGUF file, which llama.cpp, Ollama and LM Studio load.

The format is written by the ``gguf`` package of llama.cpp. What a model becomes in it (names, order of rows, settings)
follows ``convert_hf_to_gguf.py``.
Source: llama.cpp as in llama-cpp-python 0.3.36, ``conversion/`` and ``src/llama-vocab.cpp``, read 2026-11-28.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpipe.errors import UsageError
from ftpipe.modeling.export.weights import fits_float16
from ftpipe.modeling.loading import load_tokenizer
from ftpipe.modeling.types import CausalModel, Tokenizer

if TYPE_CHECKING:
    import torch

GGUF_FILE = "model-f16.gguf"
ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""Architecture in ``config.json`` → its name in GGUF."""
ROPE_TYPES = ("default", "linear", "yarn", "llama3")

_GPT2_SPLIT = "ByteLevel"
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
PRE_TOKENIZERS = {
    (_GPT2_SPLIT,): "gpt-2",
    ("Digits", _GPT2_SPLIT): "smollm",
    (_LLAMA3_SPLIT,): "llama-bpe",
    (_QWEN2_SPLIT,): "qwen2",
}
"""How a tokenizer splits a text before it merges bytes → the name of the same rules in llama.cpp."""


def check_gguf_support(base_dir: Path) -> dict[str, Any]:
    """Check that a base model can be written as GGUF.

    Returns:
        Its ``config.json``.

    Raises:
        UsageError: Its architecture, position embedding or tokenizer is not supported.
    """
    config: dict[str, Any] = json.loads((base_dir / "config.json").read_text(encoding="utf-8"))
    architecture = (config.get("architectures") or ["an unknown architecture"])[0]
    if architecture not in ARCHITECTURES:
        raise _unsupported(f"{architecture} is none of {', '.join(sorted(ARCHITECTURES))}")
    rope = _rope(config).get("rope_type", "default")
    if rope not in ROPE_TYPES:
        raise _unsupported(f"position embeddings of type {rope!r} are none of {', '.join(ROPE_TYPES)}")
    pre_tokenizer_name(load_tokenizer(base_dir))
    return config


def write_gguf(
    model: CausalModel,
    base_dir: Path,
    path: Path,
    *,
    end_of_turn: int,
    name: str,
    on_progress: Callable[[int, int], None],
) -> None:
    """Write a model as a GGUF file with 16-bit weights.

    Args:
        model: The merged model; weights in float32 are rounded once here.
        base_dir: Folder of the base model, for its configuration and tokenizer.
        path: The file.
        end_of_turn: Token that ends an answer.
        name: Name of the model, for programs that show it.
        on_progress: Called with the number of tensors written, and of all.

    Raises:
        UsageError: The model cannot be written as GGUF.
    """
    from gguf import GGUFWriter, LlamaFileType

    tokenizer = load_tokenizer(base_dir)
    config = check_gguf_support(base_dir)
    config = model.config.to_dict() | {"architectures": config["architectures"]}
    tensors = dict(_gguf_tensors(model, config))
    fits = fits_float16(tensors.values())
    writer = GGUFWriter(path, ARCHITECTURES[config["architectures"][0]])
    try:
        writer.add_type("model")
        writer.add_name(name)
        _add_settings(writer, config)
        writer.add_file_type(LlamaFileType.MOSTLY_F16 if fits else LlamaFileType.MOSTLY_BF16)
        _add_tokenizer(writer, tokenizer, base_dir, config["vocab_size"], end_of_turn)
        _write_tensors(writer, tensors, fits, on_progress)
    finally:
        writer.close()


def adds_bos(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer puts the token that begins a text in front of every text; llama.cpp then does, too."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def pre_tokenizer_name(tokenizer: Tokenizer) -> str:
    """llama.cpp's name of the rules by which a tokenizer splits a text.

    Raises:
        UsageError: llama.cpp has no such rules, or the tokenizer does not merge bytes.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model, splitter = state["model"], state.get("pre_tokenizer") or {}
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise _unsupported("its tokenizer is of the SentencePiece kind, whose scores tokenizer.json does not have")
    steps = splitter.get("pretokenizers", [splitter])
    names = tuple(filter(None, (_splitting_step(step) for step in steps)))
    if names not in PRE_TOKENIZERS:
        raise _unsupported("llama.cpp's rules for its tokenizer are not known to ftpipe")
    return PRE_TOKENIZERS[names]


def _splitting_step(step: dict[str, Any]) -> str:
    """What one step of a pre-tokenizer splits at; empty if it only maps bytes to characters."""
    kind = str(step.get("type"))
    if kind == "Split":
        return str(step["pattern"].get("Regex", "")) if step.get("behavior") == "Isolated" else "unknown"
    if kind == "ByteLevel":
        return _GPT2_SPLIT if step.get("use_regex", True) else ""
    return kind if kind != "Digits" or step.get("individual_digits") else "unknown"


def _unsupported(reason: str) -> UsageError:
    return UsageError(
        f"this model cannot be written as GGUF: {reason}",
        "export it with --merged, and convert the folder with convert_hf_to_gguf.py of llama.cpp",
    )


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Settings of the position embedding, in the names of transformers 5."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope.setdefault("rope_type", rope.get("type", "default"))
    rope.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    return rope


def _head_size(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _add_settings(writer: Any, config: dict[str, Any]) -> None:  # noqa: ANN401  # GGUFWriter is untyped here
    from gguf import GGML_QUANT_VERSION, RopeScalingType

    rope = _rope(config)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config.get("num_key_value_heads") or config["num_attention_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_key_length(_head_size(config))
    writer.add_value_length(_head_size(config))
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_dimension_count(_head_size(config))
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    writer.add_quantization_version(GGML_QUANT_VERSION)


def _add_tokenizer(
    writer: Any, tokenizer: Tokenizer, base_dir: Path, vocabulary_size: int, end_of_turn: int  # noqa: ANN401
) -> None:  # fmt: skip
    from gguf import SpecialVocab, TokenType

    texts = {id_: text for text, id_ in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens, types = [], []
    for id_ in range(vocabulary_size):
        if id_ in added:
            tokens.append(added[id_].content)
            is_control = added[id_].special or re.fullmatch(r"<\|.*\|>", added[id_].content)
            types.append(TokenType.CONTROL if is_control else TokenType.USER_DEFINED)
        else:
            tokens.append(texts.get(id_, f"[PAD{id_}]"))
            types.append(TokenType.NORMAL if id_ in texts else TokenType.UNUSED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer_name(tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    logging.getLogger("gguf").setLevel(logging.ERROR)
    special = SpecialVocab(base_dir, load_merges=True, n_vocab=vocabulary_size)
    special.chat_template = tokenizer.get_chat_template()
    special.add_special_token["bos"] = adds_bos(tokenizer)
    special.add_to_gguf(writer, quiet=True)
    if end_of_turn != tokenizer.eos_token_id:
        writer.add_eot_token_id(end_of_turn)


def _gguf_tensors(model: CausalModel, config: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a model by their GGUF names; the rows of some are in another order there."""
    import torch
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    architecture = ARCHITECTURES[config["architectures"][0]]
    kind = next(kind for kind, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names = get_tensor_name_map(kind, config["num_hidden_layers"])
    heads = config["num_attention_heads"]
    heads_by_layer = {"q_proj": heads, "k_proj": config.get("num_key_value_heads") or heads}
    state = model.state_dict()
    if config.get("tie_word_embeddings"):
        state.pop("lm_head.weight", None)
    for name, tensor in state.items():
        gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if gguf_name is None:
            raise _unsupported(f"it has a tensor {name}, for which GGUF has no name")
        layer = name.split(".")[-2]
        if architecture == "llama" and layer in heads_by_layer:
            tensor = _interleave_rotary_rows(tensor, heads_by_layer[layer])
        yield gguf_name, tensor
    rope = _rope(config)
    if rope["rope_type"] == "llama3":
        yield "rope_freqs.weight", torch.tensor(_llama3_rope_factors(rope, _head_size(config)))


def _interleave_rotary_rows(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Put the two halves of each rotated pair beside each other, as llama.cpp rotates them."""
    pairs = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return pairs.swapaxes(1, 2).reshape(tensor.shape)


def _llama3_rope_factors(rope: dict[str, Any], head_size: int) -> list[float]:
    """By how much each frequency of the position embedding is divided in Llama 3.1 and later."""
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    context = rope["original_max_position_embeddings"]
    factors = []
    for index in range(0, head_size, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (index / head_size)
        smooth = min(1.0, max(0.0, (context / wavelength - low) / (high - low)))
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors


def _write_tensors(
    writer: Any, tensors: dict[str, torch.Tensor], is_float16: bool, on_progress: Callable[[int, int], None]  # noqa: ANN401
) -> None:  # fmt: skip
    """Write one tensor after the other; norms, biases and factors are in float32, the others have 16 bits."""
    import numpy as np
    import torch
    from gguf import GGMLQuantizationType

    small = GGMLQuantizationType.F16 if is_float16 else GGMLQuantizationType.BF16
    for name, tensor in tensors.items():
        is_exact = tensor.ndim < 2
        bytes_each = 4 if is_exact else 2
        kind = GGMLQuantizationType.F32 if is_exact else small
        writer.add_tensor_info(
            name, tuple(tensor.shape), np.dtype(np.float16), tensor.numel() * bytes_each, raw_dtype=kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for number, tensor in enumerate(tensors.values(), 1):
        if tensor.ndim < 2:
            data = tensor.float().numpy()
        elif is_float16:
            data = tensor.to(torch.float16).numpy()
        else:
            data = tensor.to(torch.bfloat16).view(torch.int16).numpy()
        writer.write_tensor_data(np.ascontiguousarray(data))
        on_progress(number, len(tensors))
