"""Answers of a tiny base and its adapters, token by token."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpipe.errors import NotFoundError
from ftpipe.inference.detokenizer import IncrementalDetokenizer
from ftpipe.inference.engine import ContextLengthError, Delta, Engine, GenerationRequest, TokenLogprob
from ftpipe.modeling.chat_tokenizer import ChatTokenizer
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.loading import load_base, load_tokenizer
from ftpipe.training.hyperparameters import ResolvedHyperparameters
from ftpipe.training.lora import add_adapter, save_adapter, trainable_parameters
from tests.training.tiny_model import save_base, tiny_tokenizer

ASKED = [{"role": "user", "content": "where is it?"}]


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


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base and two adapters."""
    folder = tmp_path_factory.mktemp("engine")
    base = save_base(folder / "base")
    make_adapter(base, folder / "a", 0.3)
    make_adapter(base, folder / "b", -0.2)
    return folder


@pytest.fixture(scope="module")
def engine(place: Path) -> Iterator[Engine]:
    """One engine for all tests, in the same precision on every machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ftpipe.inference.engine.select_device", lambda: DeviceConfig("cpu", "float32"))
        yield Engine(models_dir=place / "models", max_loaded_models=2)


def ask(engine: Engine, place: Path, adapter: str | None = None, **changes: Any) -> list[Delta]:
    """All deltas of one answer; 12 tokens, likeliest first, unless changed."""
    request = GenerationRequest(**{"messages": ASKED, "max_tokens": 12, "temperature": 0.0, **changes})
    chosen = place / adapter if adapter else None
    return list(engine.generate(base=str(place / "base"), adapter=chosen, request=request))


def ask_ids(engine: Engine, place: Path, adapter: str | None = None, **changes: Any) -> list[int]:
    """The ids of one answer's tokens: the text of a random model is bytes that are mostly no characters."""
    ids: list[int] = []

    class Recorder(IncrementalDetokenizer):
        def add(self, id_: int, logprobs: tuple[TokenLogprob, ...]) -> Delta:
            ids.append(id_)
            return super().add(id_, logprobs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ftpipe.inference.engine.IncrementalDetokenizer", Recorder)
        ask(engine, place, adapter, **changes)
    return ids


def text(deltas: list[Delta]) -> str:
    """The whole answer."""
    return "".join(delta.text for delta in deltas)


def test_an_answer_comes_in_pieces_with_totals_at_the_end(engine: Engine, place: Path) -> None:
    """Only the last piece has a reason and numbers."""
    deltas = ask(engine, place)
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish_reason == "length"
    assert deltas[-1].completion_tokens == 12
    assert deltas[-1].prompt_tokens == len(ChatTokenizer(load_tokenizer(place / "base")).prompt(ASKED))


def test_the_likeliest_answer_is_that_of_transformers(engine: Engine, place: Path) -> None:
    """The step by step cache changes nothing."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place / "base")
    model = AutoModelForCausalLM.from_pretrained(place / "base", dtype=torch.float32)
    ids = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        made = model.generate(
            **ids, max_new_tokens=12, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
    expected = [id_ for id_ in made.sequences[0][ids["input_ids"].shape[1] :].tolist() if id_ != tokenizer.eos_token_id]
    found = ask_ids(engine, place)
    differ = next((step for step, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), None)
    if differ is None:
        assert found == expected
    else:  # two tokens that are equally likely: which one is first depends on the processor, and so does all the rest
        logits = made.logits[differ][0]
        assert float(logits[found[differ]]) == pytest.approx(float(logits[expected[differ]]), abs=1e-4)


def test_adapters_share_one_base_and_do_not_mix(engine: Engine, place: Path) -> None:
    """Base and adapters keep their own answers, in whatever order they are asked."""
    names = [None, "a", "b", None, "b", "a", None]
    answers = [ask_ids(engine, place, name) for name in names]
    assert len({tuple(answer) for answer in answers[:3]}) == 3
    assert answers[3:] == [answers[0], answers[2], answers[1], answers[0]]
    assert engine.loaded_models() == (str(place / "base"),)


def test_concurrent_requests_do_not_mix(engine: Engine, place: Path) -> None:
    """Threads that take turns token by token get the answers that they get alone."""
    names = [None, "a", "b"] * 3
    alone = {name: text(ask(engine, place, name)) for name in names[:3]}
    found: list[tuple[str | None, str]] = []
    threads = [
        threading.Thread(target=lambda name=name: found.append((name, text(ask(engine, place, name)))))
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found, key=str) == sorted(((name, alone[name]) for name in names), key=str)


def test_a_seed_repeats_an_answer(engine: Engine, place: Path) -> None:
    """Sampling depends on the seed alone; another seed gives another answer."""
    first, again, other = (ask_ids(engine, place, seed=seed, temperature=1.5, max_tokens=20) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_a_tiny_top_p_takes_the_likeliest(engine: Engine, place: Path) -> None:
    """Only the first of the sorted tokens is within it."""
    assert ask_ids(engine, place, temperature=1.0, top_p=1e-6) == ask_ids(engine, place)


def test_a_stop_text_ends_the_answer_and_is_not_shown(engine: Engine, place: Path) -> None:
    """Also where it begins in one piece and ends in the next."""
    letters = {id_: 100.0 for id_ in tiny_tokenizer()("abcdefghijklmnopqrstuvwxyz").input_ids}
    whole = text(ask(engine, place, logit_bias=letters))
    assert len(whole) == 12
    stop = whole[3:6]
    deltas = ask(engine, place, logit_bias=letters, stop=(stop,))
    assert text(deltas) == whole[: whole.index(stop)]
    assert deltas[-1].finish_reason == "stop"


def test_log_probabilities_come_with_every_token(engine: Engine, place: Path) -> None:
    """As many as tokens, the chosen one the likeliest, alternatives falling."""
    deltas = ask(engine, place, logprobs=3)
    told = [logprob for delta in deltas for logprob in delta.logprobs]
    assert len(told) == 12
    assert all(one.logprob == one.top[0].logprob and len(one.top) == 3 for one in told)
    assert all(one.logprob < 0 for one in told)
    assert told[0].bytes == list(told[0].token.encode())


def test_too_long_a_conversation_is_refused(engine: Engine, place: Path) -> None:
    """Before any work is done."""
    with pytest.raises(ContextLengthError, match="512"):
        ask(engine, place, messages=[{"role": "user", "content": "x" * 600}])


def test_a_missing_adapter_is_told(engine: Engine, place: Path) -> None:
    """By the folder's name."""
    with pytest.raises(NotFoundError, match="nothing-here"):
        ask(engine, place, "nothing-here")


def test_the_longest_unused_base_is_let_go(place: Path) -> None:
    """With room for one, a second base takes the place of the first."""
    other = save_base(place / "other")
    engine = Engine(models_dir=place / "models", max_loaded_models=1)
    ask(engine, place)
    list(engine.generate(base=str(other), adapter=None, request=GenerationRequest(messages=ASKED, max_tokens=1)))
    assert engine.loaded_models() == (str(other),)


def test_half_a_character_is_held_back() -> None:
    """Bytes of one character arrive in several tokens and are shown as one."""
    tokenizer = tiny_tokenizer()
    shown = IncrementalDetokenizer(tokenizer, ())
    pieces = [shown.add(id_, ()).text for id_ in tokenizer("aé€").input_ids]
    assert "".join(pieces) == "aé€"
    assert pieces == ["a", "", "é", "", "", "€"]


def test_what_may_become_a_stop_text_is_held_back() -> None:
    """And shown once it cannot."""
    tokenizer = tiny_tokenizer()
    shown = IncrementalDetokenizer(tokenizer, ("END",))
    pieces = [shown.add(id_, ()).text for id_ in tokenizer("aENoEN").input_ids]
    assert pieces == ["a", "", "", "ENo", "", ""]
    assert shown.flush().text == "EN"
