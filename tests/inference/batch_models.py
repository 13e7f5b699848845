"""Adapters for tiny bases, and greedy answers of a batch model, alone and together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftpipe.inference.batch_model import BatchModel, BatchSequence, Precision
from ftpipe.inference.decoder import Decoder
from ftpipe.inference.transformers_model import TransformersModel
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.loading import load_base
from ftpipe.training.hyperparameters import ResolvedHyperparameters
from ftpipe.training.lora import add_adapter, save_adapter, trainable_parameters


def make_adapter(base: Path, folder: Path, shift: float) -> Path:
    """An adapter that visibly changes what the base says."""
    import torch

    plan = ResolvedHyperparameters(n_epochs=1, batch_size=1, learning_rate_multiplier=1, learning_rate=1e-3)
    model = add_adapter(load_base(base, DeviceConfig("cpu", "float32")), plan, seed=1)
    with torch.no_grad():
        for _, tensor in trainable_parameters(model):
            tensor.add_(shift)
    folder.mkdir(parents=True)
    save_adapter(model, folder, base_model="tiny")
    return folder


def make_decoder(base: Path, precision: Precision = "float32", dtype: str = "float32", **limits: int) -> Decoder:
    """A decoder of a base, which it loads once more for adapters that only peft can compute."""
    device = DeviceConfig("cpu", dtype)
    return Decoder(load_base(base, device), precision, lambda: TransformersModel(load_base(base, device)), **limits)


def run_alone(model: BatchModel, adapter: Path | None, prompt: Sequence[int], *, tokens: int) -> list[int]:
    """The ids of one answer."""
    return run_together(model, [(adapter, prompt)], tokens=tokens)[0]


def run_together(
    model: BatchModel, requests: Sequence[tuple[Path | None, Sequence[int]]], *, tokens: int
) -> list[list[int]]:
    """The ids of several answers that are computed at the same time; each joins when its prompt is computed."""
    sequences = [model.open_sequence(adapter, prompt, len(prompt) + tokens) for adapter, prompt in requests]
    answers: dict[BatchSequence, list[int]] = {sequence: [] for sequence in sequences}
    while any(len(answer) < tokens for answer in answers.values()):
        new = [sequence for sequence in sequences if not sequence.is_prefilled]
        running = [sequence for sequence in sequences if sequence.is_prefilled and len(answers[sequence]) < tokens]
        for sequence, logits in zip(new, model.prefill(new), strict=True):
            if logits is not None:
                answers[sequence].append(int(logits.argmax()))
        if running:
            rows = model.decode(running, [answers[sequence][-1] for sequence in running])
            for sequence, token in zip(running, rows.argmax(-1).tolist(), strict=True):
                answers[sequence].append(token)
        for sequence in running:
            if len(answers[sequence]) == tokens:
                model.close_sequence(sequence)
    return list(answers.values())
