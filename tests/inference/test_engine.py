"""Answers of a tiny base and its adapters, token by token."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpipe.errors import NotFoundError, UsageError
from ftpipe.inference.batch_model import Precision
from ftpipe.inference.detokenizer import Delta, IncrementalDetokenizer, TokenLogprob
from ftpipe.inference.engine import Engine
from ftpipe.inference.request import ContextLengthError, GenerationRequest
from ftpipe.modeling.chat_tokenizer import ChatTokenizer
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.loading import load_adapter, load_base
from tests.inference.batch_models import make_adapter
from tests.training.tiny_model import save_base, tiny_tokenizer

MESSAGES = [{"role": "user", "content": "where is it?"}]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base and two adapters."""
    folder = tmp_path_factory.mktemp("engine")
    base = save_base(folder / "base")
    make_adapter(base, folder / "a", 0.3)
    make_adapter(base, folder / "b", -0.2)
    return folder


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Iterator[Engine]:
    """One engine for all tests, in the same precision on every machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ftpipe.inference.engine.select_device", lambda: DeviceConfig("cpu", "float32"))
        yield Engine(models_dir=model_dir / "models", max_loaded_models=2)


def generate(engine: Engine, model_dir: Path, adapter: str | None = None, **changes: Any) -> list[Delta]:
    """All deltas of one answer; 12 tokens, likeliest first, unless changed."""
    request = GenerationRequest(**{"messages": MESSAGES, "max_tokens": 12, "temperature": 0.0, **changes})
    chosen = model_dir / adapter if adapter else None
    return list(engine.generate(base=str(model_dir / "base"), adapter=chosen, request=request))


def generate_ids(engine: Engine, model_dir: Path, adapter: str | None = None, **changes: Any) -> list[int]:
    """The ids of one answer's tokens: the text of a random model is bytes that are mostly no characters."""
    ids: list[int] = []

    class Recorder(IncrementalDetokenizer):
        def add(self, id_: int, logprobs: tuple[TokenLogprob, ...]) -> Delta:
            ids.append(id_)
            return super().add(id_, logprobs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ftpipe.inference.engine.IncrementalDetokenizer", Recorder)
        generate(engine, model_dir, adapter, **changes)
    return ids


def text(deltas: list[Delta]) -> str:
    """The whole answer."""
    return "".join(delta.text for delta in deltas)


def test_engine_counts_prompt_tokens_without_generating(engine: Engine, model_dir: Path) -> None:
    """With a limit of no tokens; the number is that of a real answer."""
    (counted,) = generate(engine, model_dir, max_tokens=0)
    assert counted.completion_tokens == 0
    assert counted.prompt_tokens == generate(engine, model_dir, max_tokens=1)[-1].prompt_tokens > 0
    with pytest.raises(ContextLengthError):
        generate(engine, model_dir, max_tokens=0, messages=[{"role": "user", "content": "x " * 5000}])


def test_engine_tokenizes_the_conversation_of_several_answers_once(
    engine: Engine, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They arrive at the same time, and each is an answer to what its own request says."""
    conversations: list[str] = []
    prompt = ChatTokenizer.prompt

    def record(self: ChatTokenizer, messages: list[dict[str, Any]], *others: Any) -> list[int]:
        conversations.append(messages[0]["content"])
        return prompt(self, messages, *others)

    monkeypatch.setattr(ChatTokenizer, "prompt", record)
    threads = [
        threading.Thread(target=generate, args=(engine, model_dir), kwargs={"messages": messages, "seed": seed})
        for seed in range(8)
        for messages in ([{"role": "user", "content": "one of two"}], [{"role": "user", "content": "two of two"}])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(conversations) == ["one of two", "two of two"]


def test_engine_last_delta_has_reason_and_totals(engine: Engine, model_dir: Path) -> None:
    """Only the last piece has a reason and numbers."""
    deltas = generate(engine, model_dir)
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish_reason == "length"
    assert deltas[-1].completion_tokens == 12
    assert deltas[-1].prompt_tokens == len(ChatTokenizer.load(model_dir / "base").prompt(MESSAGES))


def test_engine_greedy_answer_equals_transformers(engine: Engine, model_dir: Path) -> None:
    """The step by step cache changes nothing."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir / "base")
    model = AutoModelForCausalLM.from_pretrained(model_dir / "base", dtype=torch.float32)
    ids = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        reference = model.generate(
            **ids, max_new_tokens=12, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
    expected = [
        id_ for id_ in reference.sequences[0][ids["input_ids"].shape[1] :].tolist() if id_ != tokenizer.eos_token_id
    ]
    actual = generate_ids(engine, model_dir)
    differ = next((step for step, pair in enumerate(zip(actual, expected, strict=False)) if pair[0] != pair[1]), None)
    if differ is None:
        assert actual == expected
    else:  # two tokens that are equally likely: which one is first depends on the processor, and so does all the rest
        logits = reference.logits[differ][0]
        assert float(logits[actual[differ]]) == pytest.approx(float(logits[expected[differ]]), abs=1e-4)


def test_engine_adapters_share_one_base(engine: Engine, model_dir: Path) -> None:
    """Base and adapters keep their own answers, in whatever order they are asked."""
    names = [None, "a", "b", None, "b", "a", None]
    answers = [generate_ids(engine, model_dir, name) for name in names]
    assert len({tuple(answer) for answer in answers[:3]}) == 3
    assert answers[3:] == [answers[0], answers[2], answers[1], answers[0]]
    assert engine.loaded_models() == (str(model_dir / "base"),)


def test_engine_concurrent_requests_do_not_mix(engine: Engine, model_dir: Path) -> None:
    """Threads that take turns token by token get the answers that they get alone."""
    names = [None, "a", "b"] * 3
    alone = {name: text(generate(engine, model_dir, name)) for name in names[:3]}
    answers: list[tuple[str | None, str]] = []
    threads = [
        threading.Thread(target=lambda name=name: answers.append((name, text(generate(engine, model_dir, name)))))
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers, key=str) == sorted(((name, alone[name]) for name in names), key=str)


def test_sampling_seed_repeats_answer(engine: Engine, model_dir: Path) -> None:
    """Sampling depends on the seed alone; another seed gives another answer."""
    first, again, other = (
        generate_ids(engine, model_dir, seed=seed, temperature=1.5, max_tokens=20) for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


def test_sampling_tiny_top_p_is_greedy(engine: Engine, model_dir: Path) -> None:
    """Only the first of the sorted tokens is within it."""
    assert generate_ids(engine, model_dir, temperature=1.0, top_p=1e-6) == generate_ids(engine, model_dir)


def test_sampling_top_k_of_one_is_greedy(engine: Engine, model_dir: Path) -> None:
    assert generate_ids(engine, model_dir, temperature=2.0, top_k=1) == generate_ids(engine, model_dir)


def test_sampling_top_k_excludes_other_tokens(engine: Engine, model_dir: Path) -> None:
    """Of a distribution that is almost flat, each token is one of the two most probable ones."""
    deltas = generate(engine, model_dir, temperature=2.0, top_k=2, logprobs=2, max_tokens=40, seed=3)
    tokens = [token for delta in deltas for token in delta.logprobs]
    assert all(token.logprob in [other.logprob for other in token.top] for token in tokens)
    assert len({token.logprob == token.top[0].logprob for token in tokens}) == 2


def test_sampling_min_p_excludes_improbable_tokens(engine: Engine, model_dir: Path) -> None:
    """All tokens but those that are as probable as the first."""
    assert generate_ids(engine, model_dir, temperature=2.0, min_p=1.0) == generate_ids(engine, model_dir)
    tokens = [
        token
        for delta in generate(engine, model_dir, temperature=1.0, min_p=0.5, logprobs=1, max_tokens=40, seed=3)
        for token in delta.logprobs
    ]
    assert all(token.logprob >= token.top[0].logprob - 0.6932 for token in tokens)


def test_sampling_repetition_penalty_excludes_prompt_and_answer(engine: Engine, model_dir: Path) -> None:
    """A huge one leaves only tokens that were neither in the prompt nor in the answer."""
    prompt = tuple(ChatTokenizer.load(model_dir / "base").prompt(MESSAGES))
    free = generate_ids(engine, model_dir, prompt=prompt, max_tokens=60)
    penalised = generate_ids(engine, model_dir, prompt=prompt, max_tokens=60, repetition_penalty=1e6)
    assert len(set(free)) < len(free)
    assert len(set(penalised)) == len(penalised)
    assert not set(penalised) & set(prompt)


def test_engine_chat_template_gets_variables(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt is longer by what the template writes for them."""
    source = "{% if enable_thinking is false %}<|im_start|>{% endif %}" + tiny_tokenizer().chat_template
    other = save_base(model_dir / "thinking")
    (other / "chat_template.jinja").write_text(source)
    monkeypatch.setattr("ftpipe.inference.engine.select_device", lambda: DeviceConfig("cpu", "float32"))
    engine = Engine(models_dir=model_dir / "models")
    lengths = [
        list(
            engine.generate(
                base=str(other),
                adapter=None,
                request=GenerationRequest(messages=MESSAGES, max_tokens=1, chat_template_kwargs=variables),
            )
        )[-1].prompt_tokens
        for variables in (None, {"enable_thinking": False})
    ]
    assert lengths[1] == lengths[0] + 1


def test_engine_continues_text(engine: Engine, model_dir: Path) -> None:
    """As it continues the same ids; names of special tokens become these tokens."""
    text = "<|im_start|>user\nwhere is it?<|im_end|>\n<|im_start|>assistant\n"
    ids = tuple(tiny_tokenizer()(text).input_ids)
    answers = [generate(engine, model_dir, messages=[], prompt=prompt, logprobs=0) for prompt in (text, ids)]
    assert answers[0] == answers[1] == generate(engine, model_dir, logprobs=0)
    assert answers[0][-1].prompt_tokens == len(ids)


@pytest.mark.parametrize("adapter", [None, "a"])
def test_engine_gives_prompt_logprobs(engine: Engine, model_dir: Path, adapter: str | None) -> None:
    """They are those of one forward pass over the whole prompt, also beyond one chunk of it."""
    import torch

    tokenizer = tiny_tokenizer()
    ids = tokenizer("where is it? " * 60)["input_ids"][:300]
    deltas = generate(engine, model_dir, adapter, messages=[], prompt=tuple(ids), prompt_logprobs=2, max_tokens=1)
    tokens = deltas[0].prompt_logprobs
    assert [delta.prompt_logprobs for delta in deltas[1:]] == [()] * (len(deltas) - 1)
    assert [token.token for token in tokens] == [tokenizer.decode([id_]) for id_ in ids]
    model: Any = load_base(model_dir / "base", DeviceConfig("cpu", "float32"))
    if adapter is not None:
        model = load_adapter(model, model_dir / adapter, name=adapter).eval()
    with torch.inference_mode():
        expected = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0], -1)
    assert (tokens[0].logprob, tokens[0].top) == (0.0, ())
    for position, token in enumerate(tokens[1:]):
        assert token.logprob == pytest.approx(float(expected[position, ids[position + 1]]), abs=1e-3)
        assert [top.logprob for top in token.top] == pytest.approx(expected[position].topk(2).values.tolist(), abs=1e-3)


@pytest.mark.parametrize(("prompt", "message"), [("", "empty"), ((), "empty"), ((7, 100_000), "100000")])
def test_engine_refuses_prompt_it_has_no_tokens_for(
    engine: Engine, model_dir: Path, prompt: str | tuple[int, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        generate(engine, model_dir, prompt=prompt)


def test_engine_stop_string_ends_answer(engine: Engine, model_dir: Path) -> None:
    """Also where it begins in one piece and ends in the next."""
    letters = {id_: 100.0 for id_ in tiny_tokenizer()("abcdefghijklmnopqrstuvwxyz").input_ids}
    whole = text(generate(engine, model_dir, logit_bias=letters))
    assert len(whole) == 12
    stop = whole[3:6]
    deltas = generate(engine, model_dir, logit_bias=letters, stop=(stop,))
    assert text(deltas) == whole[: whole.index(stop)]
    assert deltas[-1].finish_reason == "stop"


def test_engine_logprobs_for_each_token(engine: Engine, model_dir: Path) -> None:
    """As many as tokens, the chosen one the likeliest, alternatives falling."""
    deltas = generate(engine, model_dir, logprobs=3)
    logprobs = [token for delta in deltas for token in delta.logprobs]
    assert len(logprobs) == 12
    assert all(one.logprob == one.top[0].logprob and len(one.top) == 3 for one in logprobs)
    assert all(one.logprob < 0 for one in logprobs)
    assert bytes(logprobs[0].bytes).decode(errors="backslashreplace") == logprobs[0].token
    assert {byte for one in logprobs for byte in one.bytes} - set(
        range(128)
    )  # parts of characters have their own bytes


def test_engine_refuses_too_long_conversation(engine: Engine, model_dir: Path) -> None:
    """Before any work is done."""
    with pytest.raises(ContextLengthError, match="512"):
        generate(engine, model_dir, messages=[{"role": "user", "content": "x" * 600}])


@pytest.mark.parametrize("text", ["x" * 15_000_000, "x " * 5_000_000, " " * 15_000_000])
def test_engine_refuses_huge_conversation_before_tokenizing(engine: Engine, model_dir: Path, text: str) -> None:
    """By its characters, as tokenizing 15 MB takes a minute and gigabytes."""
    started_at = time.thread_time()
    with pytest.raises(ContextLengthError, match="characters"):
        generate(engine, model_dir, messages=[{"role": "user", "content": text}])
    with pytest.raises(ContextLengthError, match="characters"):
        tools = [{"type": "function", "function": {"name": "f", "description": text}}]
        generate(engine, model_dir, messages=[{"role": "user", "content": "x"}], tools=tools)
    for other in ({"prompt": text}, {"chat_template_kwargs": {"text": text}}):
        with pytest.raises(ContextLengthError, match="characters"):
            generate(engine, model_dir, **other)
    assert time.thread_time() - started_at < 1


def test_engine_missing_adapter_is_named(engine: Engine, model_dir: Path) -> None:
    """By the folder's name."""
    with pytest.raises(NotFoundError, match="nothing-here"):
        generate(engine, model_dir, "nothing-here")


def test_engine_unloads_least_recently_used_base(model_dir: Path) -> None:
    """With room for one, a second base takes the model_dir of the first."""
    other = save_base(model_dir / "other")
    engine = Engine(models_dir=model_dir / "models", max_loaded_models=1)
    generate(engine, model_dir)
    list(engine.generate(base=str(other), adapter=None, request=GenerationRequest(messages=MESSAGES, max_tokens=1)))
    assert engine.loaded_models() == (str(other),)


def test_detokenizer_holds_back_incomplete_character() -> None:
    """Bytes of one character arrive in several tokens and are shown as one."""
    tokenizer = tiny_tokenizer()
    shown = IncrementalDetokenizer(tokenizer, ())
    pieces = [shown.add(id_, ()).text for id_ in tokenizer("aé€").input_ids]
    assert "".join(pieces) == "aé€"
    assert pieces == ["a", "", "é", "", "", "€"]


def test_detokenizer_holds_back_possible_stop_string() -> None:
    """And shown once it cannot."""
    tokenizer = tiny_tokenizer()
    shown = IncrementalDetokenizer(tokenizer, ("END",))
    pieces = [shown.add(id_, ()).text for id_ in tokenizer("aENoEN").input_ids]
    assert pieces == ["a", "", "", "ENo", "", ""]
    assert shown.flush().text == "EN"


def test_engine_slow_load_of_one_base_does_not_stop_another(
    engine: Engine, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base can be on a slow disk; the models that are in memory go on answering."""
    generate(engine, model_dir)  # in memory from now on
    is_loading, may_go_on = threading.Event(), threading.Event()

    def wait(*_: Any, **__: Any) -> Path:
        is_loading.set()
        may_go_on.wait(60)
        raise NotFoundError("there is no such model", "")

    def load_slow_base() -> None:
        with pytest.raises(NotFoundError):
            list(engine.generate(base="slow", adapter=None, request=GenerationRequest(messages=MESSAGES)))

    with monkeypatch.context() as patch:
        patch.setattr("ftpipe.inference.engine.resolve_base", wait)
        slow = threading.Thread(target=load_slow_base)
        slow.start()
        assert is_loading.wait(60)
        answers: list[str] = []
        other = threading.Thread(target=lambda: answers.append(text(generate(engine, model_dir, max_tokens=2))))
        other.start()
        other.join(60)
        has_answered = bool(answers)
        may_go_on.set()
        slow.join(60)
        other.join(60)
    assert has_answered


def test_engine_says_if_it_cannot_compute_in_int8(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers all the same, in another precision."""
    lines: list[str] = []
    monkeypatch.setattr("ftpipe.inference.engine.is_supported", lambda _: False)
    engine = Engine(models_dir=model_dir / "models", precision="int8", on_status=lines.append)
    assert generate(engine, model_dir)[-1].completion_tokens == 12
    assert any("base cannot be computed in int8 here" in line for line in lines)
    engine.close()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_engine_answers_in_each_precision(model_dir: Path, precision: Precision) -> None:
    engine = Engine(models_dir=model_dir / "models", precision=precision)
    first, again = (generate_ids(engine, model_dir, "a") for _ in range(2))
    assert first == again
    assert len(first) == 12
    engine.close()
