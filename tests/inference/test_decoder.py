"""The decoder computes what transformers computes, and an answer does not depend on the others in its batch."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from ftpipe.errors import NotFoundError
from ftpipe.inference.batch_model import PREFILL_CHUNK_TOKENS, BatchSequence, Precision
from ftpipe.inference.decoder import Decoder, padded_rows
from ftpipe.inference.decoder_weights import is_supported
from ftpipe.inference.key_value_slots import SlotPool, attention_tokens
from ftpipe.inference.packed_linear import pack_linear
from ftpipe.inference.prefix_cache import PREFIX_BLOCK_TOKENS, PrefixCache
from ftpipe.inference.transformers_model import TransformersModel
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.key_value_sizes import MIN_SLOT_TOKENS
from ftpipe.modeling.loading import load_base, quiet_peft
from tests.inference.batch_models import make_adapter, make_decoder, run_alone, run_together
from tests.training.tiny_model import save_base

SHAPE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.3,
}
ARCHITECTURES = ("Llama", "Qwen2", "Qwen3", "Mistral")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_base(tmp_path_factory.mktemp("decoder") / "base", max_position_embeddings=1024)
    for name, shift in (("a", 0.3), ("b", -0.2), ("c", 0.1)):
        make_adapter(folder, folder.parent / name, shift)
    return folder


def build_model(architecture: str, **changes: Any) -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{architecture}Config")(**SHAPE, **changes)
    return getattr(transformers, f"{architecture}ForCausalLM")(config).eval()


def save_peft(base: Path, folder: Path, **settings: Any) -> Path:
    """An adapter that peft makes, with random values."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    with quiet_peft():
        model = get_peft_model(
            load_base(base, DeviceConfig("cpu", "float32")), LoraConfig(init_lora_weights=False, **settings)
        )
        model.save_pretrained(folder)
    return folder


def no_other() -> Any:
    pytest.fail("the base was loaded twice")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decoder_computes_what_transformers_computes(architecture: str) -> None:
    """After a prompt of three chunks, and after each of the tokens that follow, over the end of a slot."""
    import torch

    model = build_model(architecture)
    assert is_supported(model)
    length = MIN_SLOT_TOKENS - 5
    ids = [random.Random(1).randrange(300) for _ in range(length + 10)]
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0]
    decoder = Decoder(model, "float32", no_other)
    sequence = decoder.open_sequence(None, ids[:length], len(ids), needs_prompt_logits=True)
    rows: list[Any] = []
    while not sequence.is_prefilled:
        rows += decoder.prefill([sequence])
    rows += [decoder.decode([sequence], [token]) for token in ids[length:]]
    assert torch.allclose(torch.cat(rows), expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}}),
        ("Mistral", {"sliding_window": 16}),
        ("Gemma", {"head_dim": 8}),
        ("Llama", {"hidden_act": "gelu"}),
    ],
)
def test_decoder_leaves_other_models_to_transformers(architecture: str, changes: dict[str, Any]) -> None:
    assert not is_supported(build_model(architecture, **changes))


def test_decoder_adapters_answer_as_with_peft(base: Path) -> None:
    """In one batch, with prompts of one and of several chunks."""
    prompts = [list(range(5, 5 + length)) for length in (3, PREFILL_CHUNK_TOKENS, 2 * PREFILL_CHUNK_TOKENS + 9)]
    adapters = (None, *(base.parent / name for name in "abc"))
    requests = [(adapter, ids) for ids in prompts for adapter in adapters]
    together = run_together(make_decoder(base), requests, tokens=6)
    transformers_model = TransformersModel(load_base(base, DeviceConfig("cpu", "float32")))
    assert together == [run_alone(transformers_model, adapter, ids, tokens=6) for adapter, ids in requests]
    assert len({tuple(answer) for answer in together[-4:]}) == 4


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("float32", "float32"), ("bfloat16", "float32"), ("int8", "float32"), ("int8", "bfloat16")],
)
def test_decoder_answer_does_not_depend_on_the_batch(base: Path, precision: Precision, dtype: str) -> None:
    """Of 24 requests of any length with and without adapters, that join and leave."""
    numbers = random.Random(2)
    adapters = (None, *(base.parent / name for name in "abc"))
    requests = [
        (numbers.choice(adapters), [numbers.randrange(250) for _ in range(numbers.randrange(1, 300))])
        for _ in range(24)
    ]
    together = run_together(make_decoder(base, precision, dtype), requests, tokens=12)
    decoder = make_decoder(base, precision, dtype)
    assert together == [run_alone(decoder, adapter, ids, tokens=12) for adapter, ids in requests]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_decoder_common_beginnings_are_computed_once(base: Path, precision: Precision) -> None:
    """With the same result as if they were computed again; each adapter has its own."""
    beginning = [random.Random(3).randrange(250) for _ in range(3 * PREFIX_BLOCK_TOKENS + 5)]
    decoder = make_decoder(base, precision)
    run_alone(decoder, None, [*beginning, 1], tokens=1)
    for adapter, cached in ((None, 3 * PREFIX_BLOCK_TOKENS), (base.parent / "a", 0)):
        sequence = decoder.open_sequence(adapter, [*beginning, 2, 3], 200)
        assert sequence.cached_tokens == sequence.length == cached
        decoder.close_sequence(sequence)
    answer = run_alone(decoder, None, [*beginning, 2, 3], tokens=8)
    assert answer == run_alone(make_decoder(base, precision), None, [*beginning, 2, 3], tokens=8)
    exact = decoder.open_sequence(None, beginning[: 3 * PREFIX_BLOCK_TOKENS], 200)
    assert exact.cached_tokens == 2 * PREFIX_BLOCK_TOKENS, "the last token must be computed"


def test_decoder_common_beginnings_of_prompts_that_arrive_together_are_computed_once(base: Path) -> None:
    """By the first one; the others take it from the cache in the next step."""
    beginning = [random.Random(5).randrange(250) for _ in range(PREFIX_BLOCK_TOKENS + 5)]
    decoder = make_decoder(base)
    prompts = [*([*beginning, last] for last in (1, 2, 3)), [7] * (PREFIX_BLOCK_TOKENS + 1)]
    sequences = [decoder.open_sequence(None, prompt, 100) for prompt in prompts]
    with_adapter = decoder.open_sequence(base.parent / "a", prompts[0], 100)
    whole = decoder.open_sequence(None, prompts[0], 100, needs_prompt_logits=True)
    first = decoder.prefill([*sequences, with_adapter, whole])
    assert [logits is not None for logits in first] == [True, False, False, True, True, True]
    second = decoder.prefill(sequences[1:3])
    assert [sequence.cached_tokens for sequence in sequences] == [0, PREFIX_BLOCK_TOKENS, PREFIX_BLOCK_TOKENS, 0]
    alone = make_decoder(base)
    for prompt, logits in zip(prompts[1:3], second, strict=True):
        assert logits is not None
        assert [int(logits.argmax())] == run_alone(alone, None, prompt, tokens=1)


def test_decoder_computes_few_different_numbers_of_rows() -> None:
    """Each number up to that of a usual batch, and beyond it at most an eighth more than needed."""
    counts = range(1, 600)
    assert all(count <= padded_rows(count) <= count * 9 / 8 for count in counts)
    assert [padded_rows(count) for count in range(1, 33)] == list(range(1, 33))
    assert len({padded_rows(count) for count in counts}) <= 70


def test_decoder_prefix_cache_is_bounded(base: Path) -> None:
    decoder = make_decoder(base, max_prefix_bytes=200_000)
    numbers = random.Random(4)
    for _ in range(20):
        run_alone(decoder, None, [numbers.randrange(250) for _ in range(200)], tokens=1)
        assert 0 < decoder.prefixes.bytes <= 200_000


def test_prefix_cache_drops_the_ends_of_prompts_before_their_beginnings() -> None:
    """Of those that were used least recently; an adapter has its own blocks."""
    import torch

    first, second, third, fourth, last = ([number] * PREFIX_BLOCK_TOKENS for number in range(5))
    slot = torch.arange(2.0 * PREFIX_BLOCK_TOKENS)[:, None].expand(1, 2, 1, -1, 1)
    cache = PrefixCache(3 * slot[..., :PREFIX_BLOCK_TOKENS, :].nbytes)

    def count(*blocks: list[int], adapter: Path | None = None) -> int:
        return len(cache.find(adapter, [*(id_ for block in blocks for id_ in block), 9]))

    for end in (second, third):
        cache.add(None, [*first, *end], slot, 2 * PREFIX_BLOCK_TOKENS)
    assert (count(first, second), count(first, third)) == (2, 2)
    assert (count(first, adapter=Path("a")), count(second)) == (0, 0)
    assert torch.equal(torch.cat(cache.find(None, [*first, *third, 9]), -2), slot)
    cache.add(None, fourth, slot, PREFIX_BLOCK_TOKENS)
    assert (count(first, second), count(first, third), count(fourth)) == (1, 2, 1)
    count(first, third)
    cache.add(Path("a"), last, slot, PREFIX_BLOCK_TOKENS)
    assert (count(first, third), count(fourth), count(last, adapter=Path("a"))) == (2, 0, 1)


def test_decoder_frees_memory_of_closed_sequences(base: Path) -> None:
    decoder = make_decoder(base)
    sequences = [decoder.open_sequence(None, [1] * length, 600) for length in (5, 200, 300, 500, 9, 10)]
    assert decoder.slots.bytes > 0
    for sequence in sequences:
        decoder.close_sequence(sequence)
        decoder.close_sequence(sequence)
    assert decoder.slots.bytes == 0


def test_decoder_bounds_memory_of_open_sequences(base: Path) -> None:
    """One sequence always fits; a second one only if both do."""
    decoder = make_decoder(base, max_key_value_bytes=1 << 20)
    assert decoder.has_room(1 << 40)
    sequence = decoder.open_sequence(None, [1, 2], 1 << 20)
    assert not decoder.has_room(10)
    decoder.close_sequence(sequence)
    assert decoder.has_room(10)


def test_decoder_sequence_that_cannot_be_opened_takes_no_memory(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = make_decoder(base, max_key_value_bytes=1 << 20)

    def fail(*_: object) -> None:
        raise RuntimeError("you tried to allocate too many bytes")

    with monkeypatch.context() as patch:
        patch.setattr(SlotPool, "_resize", fail)
        with pytest.raises(RuntimeError, match="too many"):
            decoder.open_sequence(None, [1, 2], 1 << 20)
    assert decoder.has_room(1 << 40)


@pytest.fixture(scope="module")
def dora(base: Path) -> Path:
    """An adapter that is more than two matrices."""
    return save_peft(base, base.parent / "dora", r=4, target_modules=["q_proj", "down_proj"], use_dora=True)


def test_decoder_leaves_other_adapters_to_peft(base: Path, dora: Path) -> None:
    """In the same batch as others."""
    decoder = make_decoder(base)
    requests = [(None, [1, 2, 3]), (dora, [1, 2, 3]), (base.parent / "a", [1, 2, 3]), (dora, list(range(90)))]
    together = run_together(decoder, requests, tokens=5)
    transformers_model = TransformersModel(load_base(base, DeviceConfig("cpu", "float32")))
    assert together == [run_alone(transformers_model, adapter, ids, tokens=5) for adapter, ids in requests]


def test_decoder_error_of_an_adapter_of_peft_leaves_others_to_be_computed(base: Path, dora: Path) -> None:
    """Neither in their prompts nor between two tokens; the adapter's files may have been deleted meanwhile."""
    decoder = make_decoder(base)
    bad, good = (decoder.open_sequence(adapter, [1, 2, 3], 9) for adapter in (dora, None))
    expected = run_alone(make_decoder(base), None, [1, 2, 3], tokens=2)

    def fail(*_: object, **__: object) -> None:
        raise NotFoundError("the adapter lacks its files", "train it again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransformersModel, "prefill", fail)
        patch.setattr(TransformersModel, "decode", fail)
        with pytest.raises(NotFoundError):
            decoder.prefill([good, bad])
        (logits,) = decoder.prefill([good])
        assert logits is not None
        assert int(logits.argmax()) == expected[0]
        with pytest.raises(NotFoundError):
            decoder.decode([good, bad], [expected[0], 1])
        assert int(decoder.decode([good], [expected[0]]).argmax()) == expected[1]


@pytest.mark.parametrize("changes", [{"use_rslora": True}, {"target_modules": ["v_proj", "up_proj", "o_proj"]}])
def test_decoder_reads_adapters_of_peft(base: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 3, "target_modules": ["q_proj", "down_proj"], **changes}
    save_peft(base, tmp_path / "x", **settings)
    device = DeviceConfig("cpu", "float32")
    expected = run_alone(TransformersModel(load_base(base, device)), tmp_path / "x", [1, 2, 3], tokens=6)
    decoder = Decoder(load_base(base, device), "float32", no_other)
    assert run_alone(decoder, tmp_path / "x", [1, 2, 3], tokens=6) == expected


def test_decoder_keeps_a_bounded_number_of_adapters(base: Path, tmp_path: Path) -> None:
    """Also if more are open at the same time; each answers as alone."""
    folders = [make_adapter(base, tmp_path / f"{number}", 0.02 * number) for number in range(20)]
    decoder = make_decoder(base)
    together = run_together(decoder, [(folder, [1, 2, 3]) for folder in folders], tokens=3)
    assert together == [run_alone(decoder, folder, [1, 2, 3], tokens=3) for folder in folders]


def test_decoder_refuses_missing_adapter(base: Path) -> None:
    decoder = make_decoder(base)
    for action in (decoder.read_adapter, lambda folder: decoder.open_sequence(folder, [1], 2)):
        with pytest.raises(NotFoundError, match="nothing-here"):
            action(base.parent / "nothing-here")


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_decoder_result_does_not_depend_on_the_size_of_steps(base: Path, precision: Precision) -> None:
    """Bit by bit, whether a prompt is computed chunk by chunk or at once."""
    import torch

    prompt = [random.Random(6).randrange(250) for _ in range(4 * PREFILL_CHUNK_TOKENS + 9)]
    logits: list[Any] = []
    for chunks in (1, 3, 8):
        decoder = make_decoder(base, precision, "bfloat16")
        sequence = decoder.open_sequence(None, prompt, 400)
        steps = 0
        while not sequence.is_prefilled:
            (row,) = decoder.prefill([sequence], chunks=chunks)
            steps += 1
        assert steps == -(-len(prompt) // (chunks * PREFILL_CHUNK_TOKENS))
        logits.append(row)
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("inputs", [64, 1536])
def test_packed_linear_row_does_not_depend_on_other_rows(precision: Precision, inputs: int) -> None:
    """Bit by bit; with many inputs, a row alone would be added up in another order."""
    import torch

    torch.manual_seed(1)
    linear = pack_linear(torch.randn(96, inputs) * 0.05, None, precision)
    rows = torch.randn(256, inputs) * torch.rand(256, 1)
    alone = torch.cat([linear(row[None]) for row in rows])
    for count in (2, 3, 17, 64, 65, 256):
        together = torch.cat([linear(part) for part in rows.split(count)])
        assert torch.equal(together, alone)


def test_decoder_sequences_outgrow_their_slots_and_leave_in_any_order(base: Path) -> None:
    """Others join meanwhile; each answer is the one that it is alone."""
    decoder = make_decoder(base)
    numbers = random.Random(6)
    prompts = [[numbers.randrange(250) for _ in range(MIN_SLOT_TOKENS - numbers.randrange(1, 5))] for _ in range(6)]
    requests = [(prompt, numbers.randrange(3, 16)) for prompt in (*prompts, prompts[0], prompts[2])]
    waiting, answers = list(enumerate(requests)), {}
    running: dict[int, BatchSequence] = {}
    while waiting or running:
        if waiting:
            number, (prompt, _) = waiting.pop(0)
            running[number] = sequence = decoder.open_sequence(None, prompt, len(prompt) + 20)
            while (logits := decoder.prefill([sequence])[0]) is None:
                pass
            answers[number] = [int(logits.argmax())]
        rows = decoder.decode(list(running.values()), [answers[number][-1] for number in running])
        for number, token in zip(list(running), rows.argmax(-1).tolist(), strict=True):
            answers[number].append(token)
            if len(answers[number]) == requests[number][1]:
                decoder.close_sequence(running.pop(number))
    alone = make_decoder(base)
    for number, (prompt, tokens) in enumerate(requests):
        assert answers[number] == run_alone(alone, None, prompt, tokens=tokens)
    assert decoder.slots.bytes == 0


def test_attention_covers_at_most_twice_a_sequence() -> None:
    lengths = range(32, 5000)
    assert all(length <= attention_tokens(length) <= 2 * length for length in lengths)
    assert sorted({attention_tokens(length) for length in lengths})[:8] == [64, 128, 192, 256, 384, 512, 768, 1024]


def test_decoder_attention_covers_as_much_beside_longer_sequences(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More masked positions would change its result, in bfloat16, too."""
    import torch

    covered: list[int] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def record(queries: torch.Tensor, keys: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        covered.append(keys.shape[2])
        return attend(queries, keys, *arguments, **options)

    decoder = make_decoder(base)
    sequences = [decoder.open_sequence(None, [1] * length, length + 100) for length in (100, 40, 300, 120, 63)]
    while new := [sequence for sequence in sequences if not sequence.is_prefilled]:
        decoder.prefill(new)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", record)
    decoder.decode(sequences, [1, 2, 3, 4, 5])
    assert covered[:3] == [64, 128, 384]
    covered.clear()
    decoder.decode(sequences, [1, 2, 3, 4, 5])
    assert covered[:3] == [64, 128, 384]


def test_decoder_attention_has_rows_that_keep_buffers_of_threads_aligned(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer would depend on the thread that computes it, and so on the others in its batch."""
    import torch

    rows: list[int] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def record(queries: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        rows.append(queries.shape[2])
        return attend(queries, *arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", record)
    model = make_decoder(base)
    sequence = model.open_sequence(None, [*range(1, PREFIX_BLOCK_TOKENS + 2)], PREFIX_BLOCK_TOKENS + 3)
    model.prefill([sequence])
    assert rows
    assert min(rows) >= 32
    rows.clear()
    model.decode([sequence], [5])
    assert rows
    assert not any(count % 8 for count in rows)
