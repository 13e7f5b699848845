"""Base models that are known: of hosted providers, of the hub, and of this machine."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ftpipe.catalog.base_models import base_hint, hosted_base_names, is_hosted_base
from ftpipe.catalog.hub_models import hub_models
from ftpipe.catalog.trainable_bases import hosted_bases, local_bases
from ftpipe.catalog.training_prices import PriceTable
from ftpipe.modeling.base_models import DEFAULT_BASE
from ftpipe.modeling.memory import TrainingSetup, estimate_memory
from ftpipe.modeling.model_shape import ModelShape, context_length


@pytest.mark.parametrize(
    "name", ["gpt-4o-mini-2024-07-18", "gpt-4.1", "gpt-3.5-turbo", "o4-mini-2025-04-16", "davinci-002"]
)
def test_hosted_base_is_known_by_name_and_alias(name: str) -> None:
    """An unchanged script can use these at the embedded server."""
    assert is_hosted_base(name)


@pytest.mark.parametrize(
    "name",
    [
        DEFAULT_BASE,
        "org/name",
        "/models/x",
        "gpt-4o/../x",
        "ft:gpt-4o:x::y",
        "mygpt-4",
        "gpt-9",
        "gpt-4.1-minni",
        "o9",
        "",
    ],
)
def test_hosted_base_is_not_guessed_by_its_form(name: str) -> None:
    """`gpt-9` looks like a name of OpenAI's and is none."""
    assert not is_hosted_base(name)


def test_base_hint_names_similar_models_and_the_command() -> None:
    hint = base_hint("gpt-4.1-minni", hosted_base_names())
    assert hint.startswith("did you mean gpt-4.1-mini")
    assert "`ftpipe models bases`" in hint
    assert base_hint("zzzzzz", hosted_base_names()) == "`ftpipe models bases` lists what can be trained"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008),
        ("HuggingFaceTB/SmolLM2-360M-Instruct", 361_821_120),
        ("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768),
        ("Qwen/Qwen3-0.6B", 596_049_920),
        ("meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
    ],
)
def test_hub_model_shapes_give_the_published_number_of_parameters(name: str, parameters: int) -> None:
    """Up to biases and norms inside of attention, which the shape leaves out."""
    [model] = [one for one in hub_models() if one.name == name]
    assert model.shape.parameters == pytest.approx(parameters, rel=1e-3)


def test_estimated_memory_is_that_which_was_measured() -> None:
    """SmolLM2-135M, float32, one row of 2,048 tokens, adapters on q_proj and v_proj: 4,696 MB on 2026-11-28."""
    shape = next(one.shape for one in hub_models() if "135M" in one.name)
    setup = TrainingSetup(rows=1, tokens=2048)
    assert estimate_memory(shape, setup).total == pytest.approx(4_696e6, rel=0.06)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_hidden_layers": "many"},
        {"num_hidden_layers": True},
        {"num_local_experts": 8},
        {"num_local_experts": -8},
        {"num_key_value_heads": -2},
        {"head_dim": "8"},
        {"head_dim": math.inf},
        {"hidden_size": 10**300},
    ],
)
def test_model_shape_of_other_architectures_is_unknown(config: dict[str, object]) -> None:
    dense = {
        "num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 32
    }  # fmt: skip
    assert ModelShape.from_config(dense) == ModelShape(2, 8, 16, 2, 2, 4, 32)
    assert ModelShape.from_config({**dense, **config} if config else {}) is None


@pytest.mark.parametrize("text", ["gemma", [1], {}])
def test_model_shape_reads_the_whole_file_without_a_valid_text_config(text: object) -> None:
    dense = {
        "num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 32
    }  # fmt: skip
    assert ModelShape.from_config({**dense, "text_config": text}) == ModelShape(2, 8, 16, 2, 2, 4, 32)


@pytest.mark.parametrize(("length", "context"), [(64, 64), (-5, None), (True, None), ("64", None)])
def test_context_length_is_a_whole_number_above_0(length: object, context: int | None) -> None:
    assert context_length({"max_position_embeddings": length}) == context


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache of the model hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("no_hub")
def test_local_bases_list_what_is_here_and_what_can_be_fetched(tmp_path: Path) -> None:
    """A folder with its own licence; the default before its first use; then the hub, small ones first."""
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    config = {"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}
    config |= {"vocab_size": 32, "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"x" * 99)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n", encoding="utf-8")
    mine, default, *others = local_bases(folder.parent, PriceTable.load(target="local"), default=DEFAULT_BASE)
    assert (mine.name, mine.availability, mine.licence, mine.context) == ("mine", "installed", "mit", 64)
    assert (mine.download_bytes, mine.is_default, mine.price_per_million) == (99, False, 0)
    assert (default.name, default.availability, default.is_default) == (DEFAULT_BASE, "downloadable", True)
    assert (default.parameters, default.licence, default.fits_in_memory) == (134_515_008, "Apache-2.0", True)
    assert {base.availability for base in others} == {"downloadable"}
    sizes = [base.parameters or 0 for base in others]
    assert sizes == sorted(sizes)
    assert all(base.memory_bytes and base.context and base.licence for base in others)


def test_hosted_bases_have_price_limit_and_last_day() -> None:
    """The last day is the earlier one of the provider's and the base's."""
    prices = PriceTable.load(target="openai")
    default = "gpt-4.1-mini-2025-04-14"
    bases = hosted_bases("openai", "openai", prices, default=default, last_day_to_create="2027-01-06")
    by_name = {base.name: base for base in bases}
    mini, nano = by_name["gpt-4.1-mini-2025-04-14"], by_name["gpt-4.1-nano-2025-04-14"]
    assert (mini.is_default, mini.price_per_million, mini.context) == (True, 5.0, 65_536)
    assert (mini.last_day, mini.shutdown_date) == ("2027-01-06", "2027-01-14")
    assert (nano.last_day, nano.shutdown_date) == ("2026-10-22", "2026-10-23")


def test_hosted_bases_of_unknown_provider_are_those_it_lists() -> None:
    bases = hosted_bases(
        "mine", "local", PriceTable.load(target="local"), default="b", last_day_to_create=None, listed=["b", "a"]
    )
    assert [(base.name, base.is_default, base.is_listed) for base in bases] == [("a", False, True), ("b", True, True)]
