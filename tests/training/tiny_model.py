"""Models, tokenizers and job folders small enough to train in a test; nothing is fetched."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.training.templates import SPECIAL

WORDS = ["bug", "bill", "the app", " is ", "broken", "queue", "paid", "twice"]


def tiny_tokenizer(template: str = "chatml") -> Any:
    """A byte-level tokenizer with a chat template of ``templates``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    source, special = SPECIAL[template]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=special[-1], pad_token=special[-1])
    wrapped.add_special_tokens({"additional_special_tokens": special})
    wrapped.chat_template = source
    return wrapped


def save_base(folder: Path, *, template: str = "chatml", **sizes: int) -> Path:
    """Save a randomly initialised Llama of some thousand parameters with its tokenizer to ``folder``."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = tiny_tokenizer(template)
    shape = {
        "max_position_embeddings": 512,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        **sizes,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=0.3,  # large enough that adapters alone can learn the task
        **shape,
    )
    torch.set_num_threads(1)  # on a busy machine a second thread costs tiny models more than it gives
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def chat(*texts: str, system: str = "Route the ticket.", weights: Sequence[int | None] = ()) -> dict[str, Any]:
    """A chat record of alternating user and assistant messages."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for index, text in enumerate(texts):
        message: dict[str, Any] = {"role": "assistant" if index % 2 else "user", "content": text}
        if index % 2 and index // 2 < len(weights) and weights[index // 2] is not None:
            message["weight"] = weights[index // 2]
        messages.append(message)
    return {"messages": messages}


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write records as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows(count: int) -> list[dict[str, Any]]:
    """Chat records whose answer follows from the question."""
    return [chat(f"{WORDS[i % 8]} {i}", ("bug", "bill")[i % 2]) for i in range(count)]


def make_job(folder: Path, base: Path, *, data: Path | None = None, valid: bool = True, **requested: Any) -> Path:
    """A job directory with its spec, for ``run_job``; ``method``, ``seed`` and ``keep_checkpoints`` go to the spec."""
    folder.mkdir(parents=True)
    train = data or write_rows(folder / "train.jsonl", rows(12))
    spec = {
        "job_id": "ftjob-test",
        "method": requested.pop("method", "supervised"),
        "base_model": str(base),
        "training_file": str(train),
        "validation_file": str(write_rows(folder / "valid.jsonl", rows(3))) if valid else None,
        "seed": requested.pop("seed", 7),
        "keep_checkpoints": requested.pop("keep_checkpoints", 3),
        "hyperparameters": {"n_epochs": 2, "batch_size": 4, **requested},
        "model_name": "ft:tiny:local:test:abcdefgh",
        "models_dir": str(folder / "models"),
    }
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    return folder


def with_workers(folder: Path, **config: Any) -> Path:
    """Set the worker configuration of a job."""
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    (folder / "spec.json").write_text(json.dumps({**spec, "worker_config": config}), encoding="utf-8")
    return folder


def events(folder: Path) -> list[dict[str, Any]]:
    """The job's events so far."""
    return [json.loads(line) for line in (folder / "events.ndjson").read_text(encoding="utf-8").splitlines()]


def result(folder: Path) -> dict[str, Any]:
    """The job's result."""
    value: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return value
