"""The model taken apart: the same loss and gradients as the plain forward pass, for less work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ftpipe.errors import NotFoundError, UsageError
from ftpipe.modeling.chat_tokenizer import IGNORE_INDEX, ChatTokenizer, Example
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.loading import load_base
from ftpipe.training.causal_lm import LanguageModel
from ftpipe.training.hyperparameters import ResolvedHyperparameters
from ftpipe.training.lora import add_adapter, trainable_parameters
from ftpipe.training.loss import LossStats, SupervisedObjective, evaluate_rows
from tests.training.tiny_model import chat, save_base

CPU = DeviceConfig("cpu", "float32")
TEXTS = [("the app is broken", "bug"), ("paid", "a longer answer"), ("where is my bill?", "bill")]


def plan(**changes: Any) -> ResolvedHyperparameters:
    """A plan without dropout, so that passes can be compared."""
    return ResolvedHyperparameters(
        **{"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 1, "learning_rate": 1e-3, **changes}
    )


def prepared(base: Path, **changes: Any) -> tuple[Any, list[Example]]:
    """A tiny model with a non-trivial adapter, and examples with a common system prompt."""
    model = add_adapter(load_base(base, CPU), plan(**{"lora_dropout": 0.0, **changes}), seed=3)
    with torch.no_grad():
        for _, tensor in trainable_parameters(model):
            tensor.add_(0.02)
    mask = ChatTokenizer.load(base)
    return model, [example for q, a in TEXTS for example in mask.examples(chat(q, a))]


def gradients(model: Any) -> dict[str, Any]:
    """Gradients by name, taken away from the model."""
    values = {name: tensor.grad.clone() for name, tensor in trainable_parameters(model)}
    model.zero_grad()
    return values


def accumulate_gradients(lm: LanguageModel, examples: list[Example], *, batch_tokens: int) -> LossStats:
    """Accumulate the gradient of a part of a batch of so many trained tokens."""
    loss, stats = SupervisedObjective(examples).loss(lm, examples)
    (loss / batch_tokens).backward()
    return stats


def plain_gradients(model: Any, examples: list[Example]) -> tuple[float, dict[str, Any]]:
    """Loss and gradients by the model's own forward pass, row by row."""
    total = sum(example.trained_tokens for example in examples)
    loss = 0.0
    for example in examples:
        ids, labels = torch.tensor([list(example.ids)]), torch.tensor([list(example.labels)])
        part = model(input_ids=ids, labels=labels).loss * example.trained_tokens / total
        part.backward()
        loss += float(part.detach())
    return loss, gradients(model)


@pytest.mark.parametrize("share", [False, True])
def test_gradients_equal_plain_forward_pass(base: Path, share: bool) -> None:
    """Padding, the shared start and the head on labels alone change nothing but the time."""
    model, examples = prepared(base)
    expected_loss, expected = plain_gradients(model, examples)
    lm = LanguageModel(model, share_prefix=share)
    assert lm.shares_prefix is share
    stats = accumulate_gradients(lm, examples, batch_tokens=sum(example.trained_tokens for example in examples))
    assert stats.mean_loss == pytest.approx(expected_loss, rel=1e-5)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_common_beginning_is_computed_once_in_each_precision(tmp_path: Path, precision: str) -> None:
    """Rounding is no reason to compute it again for each row; a decoder that mixes rows is."""
    model = load_base(save_base(tmp_path / "base", num_hidden_layers=6), DeviceConfig("cpu", precision))
    lm = LanguageModel(model)
    assert lm.shares_prefix
    start = tuple(range(40))
    rows = [Example((*start, last, last), (*[IGNORE_INDEX] * 41, last)) for last in (50, 51, 52)]
    assert lm.is_packed(rows)
    padded = LanguageModel(model, share_prefix=False)(rows)[0]
    assert lm(rows)[0].tolist() == pytest.approx(padded.tolist(), rel=1e-5 if precision == "float32" else 0.05)

    def mix_rows(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        length = kwargs["input_ids"].shape[1]
        return args, {**kwargs, "attention_mask": torch.ones(length, length, dtype=torch.bool).tril()[None, None]}

    with model.get_decoder().register_forward_pre_hook(mix_rows, with_kwargs=True):
        assert not LanguageModel(model).shares_prefix


def test_trained_head_gets_gradients(base: Path) -> None:
    """An adapter on the head itself learns, too."""
    model, examples = prepared(base, target_modules=("q_proj", "lm_head"))
    _, expected = plain_gradients(model, examples)
    lm = LanguageModel(model)
    accumulate_gradients(lm, examples, batch_tokens=sum(example.trained_tokens for example in examples))
    actual = gradients(model)
    assert any("lm_head" in name for name in actual)
    for name, gradient in actual.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_long_rows_with_a_short_common_start_are_padded(base: Path) -> None:
    """A mask makes attention compute all pairs of positions, which costs more than a few repeated tokens."""
    lm = LanguageModel(load_base(base, CPU))
    start = tuple(range(10))
    rows = [
        Example((*start, *[last] * length), (*[IGNORE_INDEX] * 12, *[last] * (length - 2)))
        for last, length in ((20, 90), (21, 90))
    ]
    losses = lm(rows)[0]
    assert [float(lm([row])[0]) for row in rows] == pytest.approx(losses.tolist(), rel=1e-5)
    assert lm.is_packed(rows) is False
    assert lm.is_packed([row.truncate(14) for row in rows]) is True


def test_micro_batch_gradients_sum_to_batch(base: Path) -> None:
    """Accumulation weighs tokens, not parts."""
    model, examples = prepared(base)
    lm, tokens = LanguageModel(model), sum(example.trained_tokens for example in examples)
    accumulate_gradients(lm, examples, batch_tokens=tokens)
    whole = gradients(model)
    for example in examples:
        accumulate_gradients(lm, [example], batch_tokens=tokens)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-6)


def test_evaluate_rows_keeps_order(base: Path) -> None:
    """Rows are evaluated by length and returned in their own order."""
    model, examples = prepared(base)
    lm = LanguageModel(model)
    rows = evaluate_rows(lm, examples)
    alone = [evaluate_rows(lm, [example])[0] for example in examples]
    assert [row.tokens for row in rows] == [example.trained_tokens for example in examples]
    assert [row.loss for row in rows] == pytest.approx([one.loss for one in alone], rel=1e-4)


def test_add_adapter_trains_requested_layers_only(base: Path) -> None:
    """Everything of the base stays frozen."""
    model, _ = prepared(base, target_modules=("q_proj", "v_proj"))
    names = [name for name, _ in trainable_parameters(model)]
    assert len(names) == 2 * 2 * 2
    assert all("lora_" in name and ("q_proj" in name or "v_proj" in name) for name in names)


def test_add_adapter_depends_on_seed(base: Path) -> None:
    """The same seed starts from the same weights."""
    first, again, other = (add_adapter(load_base(base, CPU), plan(), seed=seed) for seed in (1, 1, 2))
    a, b, c = (dict(trainable_parameters(model)) for model in (first, again, other))
    name = next(name for name in a if "lora_A" in name)
    assert torch.equal(a[name], b[name])
    assert not torch.equal(a[name], c[name])


def test_add_adapter_refuses_unknown_layers(base: Path) -> None:
    """The hint says what to name."""
    with pytest.raises(UsageError, match="no adapter fits"):
        add_adapter(load_base(base, CPU), plan(target_modules=("nonsense",)), seed=1)


def test_load_base_refuses_unknown_architecture(tmp_path: Path) -> None:
    """An unknown architecture is no traceback."""
    (tmp_path / "config.json").write_text('{"model_type": "never-heard-of"}', encoding="utf-8")
    with pytest.raises(NotFoundError, match="cannot be loaded"):
        load_base(tmp_path, CPU)
