"""lm-evaluation-harness: ``local-completions``, with log-probabilities of prompts, and ``local-chat-completions``."""

from __future__ import annotations

import json

from tests.clients.python.checks import (
    BASE_FOLDER,
    BASE_URL,
    MODEL,
    UNKNOWN_MODEL,
    WORK_FOLDER,
    expect,
    run,
    run_module,
)

ROWS = [{"text": f"ticket {i}", "choices": ["bug", "bill"], "answer": i % 2} for i in range(4)]


def task(name: str, output: str, extra: str) -> None:
    """Write a task over a local file."""
    (WORK_FOLDER / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    lines = [
        f"task: {name}",
        "dataset_path: json",
        f"dataset_kwargs: {{data_files: {{test: {WORK_FOLDER / 'rows.jsonl'}}}}}",
        "test_split: test",
        f"output_type: {output}",
        'doc_to_text: "{{text}}"',
    ]
    (WORK_FOLDER / f"{name}.yaml").write_text("\n".join([*lines, extra, ""]), encoding="utf-8")


def lm_eval(model: str, name: str, *words: str, served: str = MODEL, is_failure: bool = False) -> str:
    """Run a task."""
    path = "chat/completions" if "chat" in model else "completions"
    arguments = f"base_url={BASE_URL}/{path},model={served},num_concurrent=4,max_retries=1,max_length=400"
    arguments += "" if "chat" in model else f",tokenizer={BASE_FOLDER},tokenizer_backend=huggingface"
    command = ["--model", model, "--model_args", arguments, "--tasks", name, "--include_path", str(WORK_FOLDER)]
    variables = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    ran = run_module("lm_eval", *command, *words, variables=variables, timeout_seconds=300, is_failure=is_failure)
    return ran.stdout + ran.stderr


def choices() -> str:
    task(
        "tickets_choice",
        "multiple_choice",
        'doc_to_choice: "{{choices}}"\ndoc_to_target: answer\nmetric_list: [{metric: acc}]',
    )
    expect("acc" in lm_eval("local-completions", "tickets_choice"), "no accuracy")
    return "local-completions: multiple choice by log-probabilities"


def generate(model: str, *words: str, served: str = MODEL, is_failure: bool = False) -> str:
    """Run a task whose answers are texts; its output."""
    task(
        "tickets_text",
        "generate_until",
        'doc_to_target: "{{choices[answer]}}"\ngeneration_kwargs: {until: ["\\n"], max_gen_toks: 8}\n'
        "metric_list: [{metric: exact_match}]",
    )
    return lm_eval(model, "tickets_text", *words, served=served, is_failure=is_failure)


def completions() -> str:
    expect("exact_match" in generate("local-completions"), "no result")
    return "local-completions: generate_until"


def chat() -> str:
    expect("exact_match" in generate("local-chat-completions", "--apply_chat_template"), "no result")
    return "local-chat-completions: generate_until"


def unknown_model() -> str:
    text = generate("local-chat-completions", "--apply_chat_template", served=UNKNOWN_MODEL, is_failure=True)
    expect("404" in text or "model_not_found" in text, text[-2000:])
    return "ends with the 404"


if __name__ == "__main__":
    run(("lm_eval",), choices, completions, chat, unknown_model)
