"""GGUF files and Ollama's Modelfile: what is in them, what is refused, and faults that the check finds."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader, GGUFWriter

from ftpipe.errors import UsageError
from ftpipe.modeling.base_models import read_gguf_config, read_gguf_tensors
from ftpipe.modeling.chat_template import ChatTemplate
from ftpipe.modeling.chat_tokenizer import ChatTokenizer
from ftpipe.modeling.device import DeviceConfig
from ftpipe.modeling.export.check import BUILT_IN_PROMPTS, Reference
from ftpipe.modeling.export.gguf_writer import GGUF_FILE, check_gguf_support, pre_tokenizer_name, write_gguf
from ftpipe.modeling.export.loaders import GgufExport, modelfile_problems
from ftpipe.modeling.export.modelfile import MODELFILE, modelfile_content, parse_modelfile, read_turn_texts
from ftpipe.modeling.export.weights import merge
from ftpipe.modeling.loading import load_base, load_tokenizer
from tests.inference.batch_models import make_adapter
from tests.modeling.export.conftest import TinyModel
from tests.modeling.export.test_check import change_json, check, wrong_alpha
from tests.training.tiny_model import save_base, tiny_tokenizer

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
JOINED = (
    "{% for m in messages %}{% if m['role'] == 'system' %}[INST] {{ m['content'] }}\n\n{% elif m['role'] == 'user' %}"
    "{% if loop.index0 != 1 or messages[0]['role'] != 'system' %}[INST] {% endif %}{{ m['content'] }} [/INST]"
    "{% else %}{{ m['content'] }}</s>{% endif %}{% endfor %}"
)
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="module")
def reference(tiny: TinyModel) -> Reference:
    return tiny.reference("float16")


@pytest.fixture(scope="module")
def gguf_export(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = tiny.export(tmp_path_factory.mktemp("good") / "gguf", format="gguf")
    assert result.check.problems == ()
    return result.folder


def rewrite(path: Path, change: Callable[[str, Any], Any]) -> None:
    """Write a GGUF file again, with changed tensors (arrays) and settings."""
    reader = GGUFReader(path)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = GGUFWriter(path.with_suffix(".new"), architecture)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            value = change(name, field.contents())
            if value is not None:
                writer.add_key_value(name, value, field.types[0], sub_type=field.types[-1])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, change(tensor.name, tensor.data.copy()), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".new").replace(path)


def problems(folder: Path, tiny: TinyModel, reference: Reference) -> tuple[str, ...]:
    result = check(reference, GgufExport(folder / GGUF_FILE, tiny.base_dir))
    return (*result.problems, *modelfile_problems(folder, reference))


def test_gguf_has_the_settings_and_the_vocabulary_of_the_model(gguf_export: Path, tiny: TinyModel) -> None:
    fields = {name: field.contents() for name, field in GGUFReader(gguf_export / GGUF_FILE).fields.items()}
    tokenizer = load_tokenizer(tiny.base_dir)
    assert fields["general.architecture"] == "llama"
    assert (fields["llama.block_count"], fields["llama.attention.head_count_kv"]) == (2, 2)
    assert (fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert fields["tokenizer.chat_template"] == tokenizer.get_chat_template()
    assert fields["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert [fields["tokenizer.ggml.tokens"][id_] for id_ in (0, tokenizer.eos_token_id)] == ["!", "<|im_end|>"]
    assert [fields["tokenizer.ggml.token_type"][id_] for id_ in (0, tokenizer.eos_token_id)] == [1, 3]


def test_gguf_of_a_llama_is_read_back_without_transformers(tiny: TinyModel, tmp_path: Path) -> None:
    """As the default base model is when it is installed; queries and keys have their rows in another order there."""
    import torch

    model = load_base(tiny.base_dir, DeviceConfig("cpu", "float32"))
    path = tmp_path / GGUF_FILE
    write_gguf(model, tiny.base_dir, path, end_of_turn=1, name="tiny", on_progress=lambda _done, _all: None)
    reader = GGUFReader(path)
    config = read_gguf_config(reader)
    names = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"]
    names += ["head_dim", "rms_norm_eps", "rope_parameters", "vocab_size", "eos_token_id", "tie_word_embeddings"]
    for name in names:
        assert getattr(config, name) == pytest.approx(getattr(model.config, name)), name
    expected = {name: tensor.half().bfloat16() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del expected["lm_head.weight"]
    tensors = dict(read_gguf_tensors(reader, config))
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("architecture", ["Llama", "Qwen2", "Qwen3"])
def test_gguf_of_each_architecture_gives_the_same_answers(tiny: TinyModel, tmp_path: Path, architecture: str) -> None:
    """Among them biases, norms of queries, grouped heads and tied embeddings; read back by transformers."""
    import torch
    import transformers

    base_dir = tmp_path / "base"
    tokenizer = load_tokenizer(tiny.base_dir)
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=len(tokenizer) + 6,  # some models have rows without a token
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    getattr(transformers, f"{architecture}ForCausalLM")(config).save_pretrained(base_dir)
    tokenizer.save_pretrained(base_dir)
    model = TinyModel(base_dir, make_adapter(base_dir, tmp_path / "adapter", 0.03))
    result = model.export(tmp_path / "out", format="gguf")
    assert result.check.problems == ()


def swap_halves(name: str, value: Any) -> Any:
    """The order of rows that transformers has, and llama.cpp does not."""
    if "attn_q" not in name:
        return value
    return value.reshape(4, 4, 2, -1).swapaxes(1, 2).reshape(value.shape)


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (lambda name, value: value.replace("|>\n", "|>") if "template" in name else value, "has other tokens"),
        (lambda name, value: "x" + value if "template" in name else value, "has other tokens"),
        (lambda name, value: 0 if name.endswith("eos_token_id") else value, "ends an answer in training"),
        (lambda name, value: list(reversed(value)) if name.endswith("ggml.tokens") else value, "has other tokens"),
        (swap_halves, "log-probabilities differ"),
    ],
    ids=["template", "template start", "stop", "vocabulary", "order of rows"],
)
def test_check_finds_faults_of_a_gguf_file(
    gguf_export: Path,
    tiny: TinyModel,
    reference: Reference,
    tmp_path: Path,
    fault: Callable[[str, Any], Any],
    problem: str,
) -> None:
    folder = shutil.copytree(gguf_export, tmp_path / "export")
    if fault is not swap_halves:
        rewrite(folder / GGUF_FILE, lambda name, value: fault(name, value) if name.startswith("token") else value)
    else:
        rewrite(folder / GGUF_FILE, fault)
    found = problems(folder, tiny, reference)
    assert any(problem in one for one in found), found


def test_check_finds_wrong_weights_in_a_gguf_file(tiny: TinyModel, reference: Reference, tmp_path: Path) -> None:
    """Twice the scale of the adapter."""
    adapter = shutil.copytree(tiny.adapter, tmp_path / "adapter")
    wrong_alpha(adapter)
    folder = TinyModel(tiny.base_dir, adapter).export(tmp_path / "out", format="gguf").folder
    assert any("log-probabilities differ" in one for one in problems(folder, tiny, reference))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('PARAMETER stop "<|im_end|>"\n', "", "is no stop of the Modelfile"),
        ("<|im_start|>user\n", "<|im_start|>user", "writes prompt 1 differently"),
        ('<|im_start|>assistant\n"', '"', "writes prompt 1 differently"),
        ("{{ if not .System }}", "{{ if .Tools }}", "cannot be read"),
    ],
)
def test_check_finds_faults_of_a_modelfile(
    gguf_export: Path, reference: Reference, tmp_path: Path, old: str, new: str, problem: str
) -> None:
    content = (gguf_export / MODELFILE).read_text(encoding="utf-8")
    assert old in content
    (tmp_path / MODELFILE).write_text(content.replace(old, new), encoding="utf-8")
    assert [problem in one for one in modelfile_problems(tmp_path, reference)] == [True]


@pytest.mark.parametrize("name", ["chatml", "llama3", "mistral", "smollm2"])
def test_modelfile_writes_conversations_as_the_chat_template(name: str) -> None:
    """With and without a system message, of one turn and of several; also after it was read from the file."""
    tokenizer = tiny_tokenizer("chatml" if name == "smollm2" else name)
    template = ChatTemplate.of(tokenizer)
    if name == "smollm2":
        template = ChatTemplate({"default": SMOLLM2}, template.tokens, template.special)
    texts = read_turn_texts(template, start="")
    assert texts is not None
    parsed = parse_modelfile(modelfile_content(texts, GGUF_FILE, ["</s>"]))
    assert parsed == (texts, ["</s>"])
    turns = [dict(prompt.messages[0]) for prompt in BUILT_IN_PROMPTS]
    answered = [turns[0], {"role": "assistant", "content": "Paris."}, turns[1]]
    system = {"role": "system", "content": "Be brief."}
    chat = ChatTokenizer.of(tokenizer)
    with_system = [] if name == "mistral" else [[system, turns[3]], [system, *answered]]
    for messages in ([turns[2]], answered, *with_system):
        text = parsed[0].render(messages)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ChatTokenizer(template, chat._encoder).prompt(
            messages
        )


@pytest.mark.parametrize("source", [JOINED, "{% for m in messages %}{{ m['content'] }}{{ m['content'] }}{% endfor %}"])
def test_modelfile_is_not_written_for_templates_that_do_more(source: str) -> None:
    """A system message inside the first turn of a user, and a content that is written twice."""
    template = ChatTemplate.of(tiny_tokenizer())
    assert read_turn_texts(ChatTemplate({"default": source}, template.tokens, template.special), start="") is None


def test_export_without_modelfile_says_so(tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftpipe.modeling.export.export_model.read_turn_texts", lambda *_, **__: None)
    result = tiny.export(tmp_path / "out", format="gguf")
    assert sorted(file.name for file in result.folder.iterdir()) == ["README.md", GGUF_FILE]
    assert "llama-server --jinja" in result.notes[0]


@pytest.mark.needs("xllamacpp")
def test_gguf_is_loaded_by_llama_cpp(tiny: TinyModel, tmp_path: Path) -> None:
    """It reads the same tokens, and its most probable tokens are those of the trainer's model."""
    import xllamacpp

    base_dir = save_base(tmp_path / "base")
    state = json.loads((base_dir / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = state["model"]["vocab"]
    ids = iter(sorted(vocabulary.values())[-2:])  # two characters that no text needs make room for merges
    names = {id_: text for text, id_ in vocabulary.items()}
    for merge_parts in (["t", "h"], ["th", "e"]):
        id_ = next(ids)
        del vocabulary[names[id_]]
        vocabulary["".join(merge_parts)] = id_
        state["model"]["merges"].append(merge_parts)
    (base_dir / "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
    model = TinyModel(base_dir, make_adapter(base_dir, tmp_path / "adapter", 0.03))
    folder = model.export(tmp_path / "out", format="gguf").folder
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(folder / GGUF_FILE)
    parameters.n_ctx, parameters.n_parallel, parameters.use_jinja, parameters.warmup = 256, 1, True, False
    server = xllamacpp.Server(parameters)

    def post(path: str, **body: Any) -> Any:
        request = urllib.request.Request(f"{server.listening_address}{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request) as response:
            return json.loads(response.read())

    reference = model.reference("float16")
    for answer in reference.answers:
        prompt = post("/apply-template", messages=[dict(message) for message in answer.prompt.messages])["prompt"]
        assert post("/tokenize", content=prompt, add_special=True, parse_special=True)["tokens"] == answer.prompt_ids
        for index in range(0, len(answer.answer_ids), 4):
            prompt_ids = [*answer.prompt_ids, *answer.answer_ids[:index]]
            (token,) = post("/completion", prompt=prompt_ids, n_predict=1, top_k=1, return_tokens=True)["tokens"]
            # one of two that are equally likely, if not the trainer's
            gap = (
                answer.top_logprobs[index][0] - answer.top_logprobs[index][answer.top_ids[index].tolist().index(token)]
            )
            assert float(gap) <= reference.limit


def test_gguf_refuses_unknown_architectures_by_name(tiny: TinyModel, tmp_path: Path) -> None:
    """Before anything is computed, with what to do."""
    base_dir = shutil.copytree(tiny.base_dir, tmp_path / "base")
    change_json(base_dir / "config.json", architectures=["GemmaForCausalLM"])
    with pytest.raises(UsageError, match="GemmaForCausalLM") as refused:
        TinyModel(base_dir, tiny.adapter).export(tmp_path / "out", format="gguf")
    assert "--merged" in refused.value.hint
    assert "convert_hf_to_gguf.py" in refused.value.hint
    assert not (tmp_path / "out").exists()


def test_gguf_refuses_unknown_positions(tiny: TinyModel, tmp_path: Path) -> None:
    base_dir = shutil.copytree(tiny.base_dir, tmp_path / "base")
    change_json(base_dir / "config.json", rope_parameters={"rope_type": "longrope"})
    with pytest.raises(UsageError, match="longrope"):
        check_gguf_support(base_dir)


@pytest.mark.parametrize(
    ("rules", "name"),
    [
        ("bytes", "gpt-2"),
        ("digits", "smollm"),
        ("llama3", "llama-bpe"),
        ("qwen2", "qwen2"),
        ("other", None),
    ],
)
def test_pre_tokenizer_name_by_the_rules_of_the_tokenizer(rules: str, name: str | None) -> None:
    """The rules are compared as text, so a tokenizer with other rules is refused and never split differently."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    splits = {"llama3": LLAMA3_SPLIT, "qwen2": LLAMA3_SPLIT.replace("{1,3}", ""), "other": "[0-9]+"}
    steps: list[dict[str, Any]] = [{**byte_level, "use_regex": rules not in splits}]
    if rules == "digits":
        steps = [{"type": "Digits", "individual_digits": True}, *steps]
    elif rules in splits:
        split = {"type": "Split", "pattern": {"Regex": splits[rules]}, "behavior": "Isolated", "invert": False}
        steps = [split, *steps]
    pre_tokenizer = steps[0] if rules == "bytes" else {"type": "Sequence", "pretokenizers": steps}
    tokenizer = tiny_tokenizer()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    backend = type(tokenizer.backend_tokenizer).from_str(json.dumps({**state, "pre_tokenizer": pre_tokenizer}))
    tokenizer._tokenizer = backend
    if name is None:
        with pytest.raises(UsageError, match="rules for its tokenizer"):
            pre_tokenizer_name(tokenizer)
    else:
        assert pre_tokenizer_name(tokenizer) == name


def test_gguf_merges_in_float32_and_rounds_once(gguf_export: Path, tiny: TinyModel) -> None:
    """Not through the base model's bfloat16, which has fewer digits."""
    import numpy as np

    tensors = {tensor.name: tensor for tensor in GGUFReader(gguf_export / GGUF_FILE).tensors}
    exact = merge(tiny.base_dir, tiny.adapter, keep_float32=True).state_dict()["model.layers.1.self_attn.v_proj.weight"]
    assert np.array_equal(tensors["blk.1.attn_v.weight"].data, exact.numpy().astype(np.float16))
    assert tensors["blk.1.attn_norm.weight"].data.dtype == np.float32
