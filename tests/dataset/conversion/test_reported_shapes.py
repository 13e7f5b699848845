"""Records in the shape of public bug reports and formats, each with what it becomes or why it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ftpipe.dataset.conversion.convert import ConversionResult, convert
from ftpipe.dataset.conversion.row import ConversionOptions
from ftpipe.errors import DatasetError

Record = dict[str, Any]


def system(text: str) -> Record:
    return {"role": "system", "content": text}


def user(text: str) -> Record:
    return {"role": "user", "content": text}


def answer(text: str, **more: object) -> Record:
    return {"role": "assistant", "content": text, **more}


def call(arguments: str, name: str = "w", call_id: str = "call_0") -> Record:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(text: str, call_id: str = "call_0", **more: object) -> Record:
    return {"role": "tool", "tool_call_id": call_id, "content": text, **more}


def calls(*listed: Record, **more: object) -> Record:
    return {"role": "assistant", "tool_calls": list(listed), **more}


def chat(*messages: Record, **more: object) -> Record:
    return {"messages": list(messages), **more}


def pair(prompt: list[Record], better: str, worse: str, **more: object) -> Record:
    return {
        "input": {"messages": prompt, **more},
        "preferred_output": [answer(better)],
        "non_preferred_output": [answer(worse)],
    }


def turns(*listed: tuple[str, str], **more: object) -> Record:
    return {"conversations": [{"from": speaker, "value": text} for speaker, text in listed], **more}


TOOL = {"name": "w", "description": "weather", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": TOOL}]
HI = chat(user("Hi"), answer("Hello"))


class Case(NamedTuple):
    """A record, and what it becomes: a record, or words of the reason why it is left out or the file refused."""

    name: str
    source: str
    """Path at https://github.com, or a whole URL; empty for a format without a report."""
    record: Any
    expected: Record | str
    options: ConversionOptions = ConversionOptions()


REPORTS = [
    Case("speakers bing and chatgpt", "axolotl-ai-cloud/axolotl/issues/325",
         turns(("human", "Hi"), ("bing", "Hello")), HI),
    Case("conversation without an object around it", "unslothai/unsloth/issues/321",
         [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], HI),
    Case("speaker assistant in ShareGPT", "axolotl-ai-cloud/axolotl/issues/752",
         turns(("human", "Hi"), ("assistant", "Hello")), HI),
    Case("speakers with capitals and blanks", "unslothai/unsloth-zoo/pull/1225",
         turns(("User ", "Hi"), ("GPT", "Hello")), HI),
    Case("role and content under conversations", "NVIDIA-NeMo/Automodel/pull/2375",
         {"conversations": [user("Hi"), answer("Hello")]}, HI),
    Case("unknown speaker is named", "hiyouga/LlamaFactory/issues/6878",
         turns(("human", "Hi"), ("narrator", "Hello")), "unknown speaker 'narrator'"),
    Case("train false on a turn", "allenai/open-instruct/issues/283",
         chat(user("Hi"), answer("bad", train=False), user("Again"), answer("good", train=True)),
         chat(user("Hi"), answer("bad", weight=0), user("Again"), answer("good", weight=1))),
    Case("loss false on a ShareGPT turn", "hiyouga/LlamaFactory/pull/10471",
         {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello", "loss": False}]},
         chat(user("Hi"), answer("Hello", weight=0))),
    Case("loss false on a tool call", "modelscope/ms-swift/issues/9263",
         chat(user("Rome?"), {"role": "tool_call", "content": '{"name": "w", "arguments": {}}', "loss": False},
              {"role": "tool_response", "content": "20"}, answer("20.", loss=True)),
         chat(user("Rome?"), calls(call("{}"), weight=0), result("20"), answer("20.", weight=1))),
    Case("trainable flag", "verl-project/verl/pull/5472",
         chat(user("Hi"), answer("Hello", trainable=False)), chat(user("Hi"), answer("Hello", weight=0))),
    Case("masked message", "meta-pytorch/torchtune/issues/2214",
         chat(user("Hi"), answer("no", masked=True), user("And?"), answer("yes", masked=False)),
         chat(user("Hi"), answer("no", weight=0), user("And?"), answer("yes", weight=1))),
    Case("a turn of the user that is trained", "allenai/open-instruct/issues/283",
         chat({**user("Hi"), "train": True}, answer("Hello")), "would train the turn of the user"),
    Case("fractional weight of a sample", "togethercomputer/skills/pull/35",
         chat(user("Hi"), answer("Hello"), weight=0.5), "weight has no place"),
    Case("loss_mask array beside the turns", "hiyouga/LlamaFactory/pull/10471",
         turns(("human", "Hi"), ("gpt", "Hello"), loss_mask=[0, 1]), "loss_mask has no place"),
    Case("KTO in Alpaca form", "hiyouga/LlamaFactory/issues/3803",
         {"instruction": "Hi", "input": "", "output": "Go away", "kto_tag": False}, "negative example"),
    Case("is_good of KTO", "huggingface/trl/issues/1116",
         {"prompt": "Hi", "answer": "Go away", "is_good": False}, "negative example"),
    Case("KTO with messages", "huggingface/trl/pull/2248",
         {"prompt": [user("Hi")], "completion": [answer("Hello")], "label": True}, HI),
    Case("ranked outputs of old LLaMA-Factory", "hiyouga/LlamaFactory/issues/1913",
         {"instruction": "Hi", "input": "", "output": ["Hello", "Go away"]}, "it is a list of 2, not text"),
    Case("answer with its score as object", "hiyouga/LlamaFactory/issues/4717",
         {"question": "Hi", "pos_answer": {"answer": "Hello", "score": 1.0}, "neg_answer": {"answer": "Go"}},
         "no column has a usual name for the answer"),
    Case("Alpaca DPO", "hiyouga/LlamaFactory/issues/4108",
         {"instruction": "Hi", "chosen": "Hello", "rejected": "Go"}, pair([user("Hi")], "Hello", "Go")),
    Case("DPO with messages, prompt and scores", "hiyouga/LlamaFactory/pull/3066",
         {"prompt": "Hi", "chosen": [user("Hi"), answer("Hello")], "rejected": [user("Hi"), answer("Go")],
          "messages": [user("Hi"), answer("Hello")], "score_chosen": 8.0},
         pair([user("Hi")], "Hello", "Go")),
    Case("DPO with Human and Assistant", "hiyouga/LlamaFactory/issues/3264",
         {key: [{"role": "Human", "content": "Hi"}, {"role": "Assistant", "content": text}]
          for key, text in (("chosen", "Hello"), ("rejected", "Go"))}, pair([user("Hi")], "Hello", "Go")),
    Case("ShareGPT DPO", "hiyouga/LlamaFactory/issues/2365",
         turns(("human", "Hi"), chosen={"from": "gpt", "value": "Hello"}, rejected={"from": "gpt", "value": "Go"}),
         pair([user("Hi")], "Hello", "Go")),
    Case("DPO without a prompt", "unslothai/unsloth/issues/112",
         {"chosen": "Avast", "rejected": "Good day"}, "column prompt: it is missing"),
    Case("DPO of several turns", "axolotl-ai-cloud/axolotl/issues/1645",
         {key: [user("Hi"), answer("Hello"), user("Bye"), answer(text)]
          for key, text in (("chosen", "Farewell"), ("rejected", "Go"))},
         pair([user("Hi"), answer("Hello"), user("Bye")], "Farewell", "Go")),
    Case("DPO whose answers differ in two turns", "axolotl-ai-cloud/axolotl/issues/2647",
         {"chosen": [user("Hi"), answer("A"), user("B"), answer("C")], "rejected": [user("Hi"), answer("X")]},
         "the answers differ in 3 messages"),
    Case("DPO as prompt and lists that repeat it", "argilla-io/distilabel/issues/343",
         {"prompt": [system("Short."), user("Hi")], "chosen": [answer("Hello")], "rejected": [answer("Go")]},
         pair([system("Short."), user("Hi")], "Hello", "Go")),
    Case("hh-rlhf text", "sagnikc395/refusal-circuit-dpo/issues/8",
         {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Go"},
         pair([user("Hi")], "Hello", "Go")),
    Case("orca DPO with system and question", "axolotl-ai-cloud/axolotl/issues/1708",
         {"system": "Short.", "question": "Hi", "chosen": "Hello", "rejected": "Go"},
         pair([system("Short."), user("Hi")], "Hello", "Go")),
    Case("prompt_id beside messages", "mistralai/cookbook/issues/60",
         {"prompt": "Hi", "prompt_id": "a0", "messages": [user("Hi"), answer("Hello")]}, HI),
    Case("messages as JSON text", "axolotl-ai-cloud/axolotl/pull/3607",
         {"messages": json.dumps([user("Hi"), answer("Hello")])}, HI),
    Case("messages as JSON text with false and null", "modelscope/ms-swift/pull/10120",
         {"messages": json.dumps([user("Hi"), answer("Hello", loss=False, tool_calls=None)])},
         chat(user("Hi"), answer("Hello", weight=0))),
    Case("messages as Python text", "modelscope/ms-swift/pull/10120",
         {"messages": str([user("It's?"), answer("Hello")])}, chat(user("It's?"), answer("Hello"))),
    Case("messages as the text of an object", "axolotl-ai-cloud/axolotl/pull/3739",
         {"messages": '{"a": 1}'}, "it is not a list of messages"),
    Case("chosen as text with messages and tools", "kakao/diatool-dpo/issues/2",
         {"chosen": json.dumps({"messages": [user("Hi"), answer("Hello")]}),
          "rejected": json.dumps({"messages": [user("Hi"), answer("Go")]})}, pair([user("Hi")], "Hello", "Go")),
    Case("tools as JSON text", "NVIDIA-NeMo/Automodel/pull/2324",
         chat(user("Hi"), answer("Hello"), tools=json.dumps([TOOL])),
         chat(user("Hi"), answer("Hello"), tools=TOOLS)),
    Case("arguments as an object", "oumi-ai/oumi/pull/2599",
         chat(user("Rome?"), calls({"function": {"name": "w", "arguments": {"c": "Rome"}}}, content=None)),
         chat(user("Rome?"), calls(call('{"c": "Rome"}')))),
    Case("nulls that Arrow adds", "jingyaogong/minimind/issues/737",
         chat({**user("Hi"), "reasoning_content": "", "tools": None, "tool_calls": None},
              answer("\nHello\n", reasoning_content=None, tool_calls=None)), chat(user("Hi"), answer("\nHello\n"))),
    Case("reasoning apart is refused", "jingyaogong/minimind/issues/737",
         chat(user("Hi"), answer("Hello", reasoning_content="greet")), "reasoning_content is reasoning"),
    Case("reasoning written before the answer", "fw-ai/cookbook/pull/378",
         chat(user("Hi"), answer("Hello", reasoning_content="greet")),
         chat(user("Hi"), answer("<think>\ngreet\n</think>\n\nHello")), ConversionOptions(reasoning="think")),
    Case("text and call in one turn", "hiyouga/LlamaFactory/issues/9107",
         chat(user("Rome?"), calls(call("{}", call_id="a"), content="I look."), result("20", "a"), answer("20.")),
         chat(user("Rome?"), calls(call("{}", call_id="a"), content="I look."), result("20", "a"), answer("20."))),
    Case("parallel calls with one observation", "hiyouga/LlamaFactory/issues/7356",
         turns(("human", "Rome, Bonn?"), ("function_call", '[{"name": "w", "arguments": {"c": 1}},'
               ' {"name": "w", "arguments": {"c": 2}}]'), ("observation", '["20", "9"]'), ("gpt", "20 and 9.")),
         chat(user("Rome, Bonn?"), calls(call('{"c": 1}'), call('{"c": 2}', call_id="call_1")), result("20"),
              result("9", "call_1"), answer("20 and 9."))),
    Case("Glaive text", "hiyouga/LlamaFactory/issues/2529",
         {"system": "S", "chat": "USER: Hi\n\n\nASSISTANT: Hello <|endoftext|>"}, "rendered with a chat template"),
    Case("Hermes text", "vllm-project/speculators/pull/771",
         turns(("system", "Use <tools>\n" + json.dumps(TOOL) + "\n</tools>"), ("human", "Rome?"),
               ("gpt", 'I look.\n<tool_call>\n{"name": "w", "arguments": {"c": "Rome"}}\n</tool_call>'),
               ("tool", "<tool_response>\n20\n</tool_response>"), ("gpt", "20.")),
         chat(system("Use <tools>\n" + json.dumps(TOOL) + "\n</tools>"), user("Rome?"),
              answer("I look.", tool_calls=[call('{"c": "Rome"}')]), result("20"), answer("20."), tools=TOOLS)),
    Case("Gemini function call", "googleapis/python-aiplatform/issues/6127",
         {"contents": [{"role": "user", "parts": [{"text": "Rome?"}]},
                       {"role": "model", "parts": [{"functionCall": {"name": "w", "args": {"c": "Rome"}}}]},
                       {"role": "user", "parts": [{"functionResponse": {"name": "w", "response": {"t": 20}}}]},
                       {"role": "model", "parts": [{"text": "20."}]}],
          "tools": [{"functionDeclarations": [{"name": "w", "parameters": {"type": "OBJECT", "properties": {}}}]}]},
         chat(user("Rome?"), calls(call('{"c": "Rome"}')), result('{"t": 20}', name="w"), answer("20."),
              tools=[{"type": "function", "function": {"name": "w", "parameters": TOOL["parameters"]}}])),
    Case("Anthropic tool_use and tool_result", "envoyproxy/ai-gateway/pull/1953",
         {"system": "Short.", "messages": [
             user("Rome?"),
             {"role": "assistant", "content": [{"type": "text", "text": "I look."},
                                               {"type": "tool_use", "id": "t1", "name": "w", "input": {"c": "Rome"}}]},
             {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "20"}]},
             answer("20.")], "tools": [{"name": "w", "input_schema": TOOL["parameters"]}]},
         chat(system("Short."), user("Rome?"),
              answer("I look.", tool_calls=[call('{"c": "Rome"}', call_id="t1")]), result("20", "t1"), answer("20."),
              tools=[{"type": "function", "function": {"name": "w", "parameters": TOOL["parameters"]}}])),
    Case("legacy functions", "OpenPipe/OpenPipe/pull/338",
         chat(user("Rome?"), {"role": "assistant", "content": None, "function_call": {"name": "w", "arguments": "{}"}},
              {"role": "function", "name": "w", "content": "20"}, answer("20."), functions=[TOOL]),
         chat(user("Rome?"), calls(call("{}")), result("20", name="w"), answer("20."), tools=TOOLS)),
    Case("Langfuse generation", "langfuse/langfuse/issues/664",
         {"id": "a", "input": {"messages": [user("Hi")]}, "output": {"role": "assistant", "content": "Hello"}}, HI),
    Case("answers of annotators in Argilla", "argilla-io/argilla/issues/4027",
         {"fields": {"question": "Hi"}, "responses": [{"values": {"answer": {"value": "Hello"}}}]}, HI),
    Case("result of the Batch API", "https://community.openai.com/t/structured-outputs-with-batch-processing/911076",
         {"custom_id": "1", "response": {"status_code": 200, "body": {"choices": [{"message": answer("4")}]}}},
         "add body of the request with the same custom_id"),
    Case("request and result of the Batch API", "https://openai.cadn.net.cn/api-reference_en/batch-request-input",
         {"custom_id": "1", "method": "POST", "body": {"model": "m", "messages": [user("Hi")]},
          "response": {"status_code": 200, "body": {"choices": [{"index": 0, "message": answer("Hello")}]}}}, HI),
    Case("guanaco text", "AnswerDotAI/fsdp_qlora/pull/7",
         {"text": "### Human: Hi### Assistant: Hello### Human: Bye### Assistant: Bye now\n"},
         chat(user("Hi"), answer("Hello"), user("Bye"), answer("Bye now\n"))),
    Case("rendered Llama 3 text", "unslothai/unsloth/issues/575",
         {"text": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"},
         "rendered with a chat template"),
    Case("numbers as answers", "unslothai/unsloth/issues/1769", {"Query": "123?", "Answer": 456},
         chat(user("123?"), answer("456"))),
    Case("prompt and response", "scaleapi/llm-engine/issues/213", {"prompt": "Hi", "response": "Hello"}, HI),
    Case("source beside question and answer", "nestordemeure/question_extractor/issues/4",
         {"source": "a.md", "question": "Hi", "answer": "Hello"}, HI),
    Case("boolean as answer", "aws/fmeval/pull/168", {"question": "Hi", "answer": True}, "it is true, not text"),
]  # fmt: skip


FORMATS = [
    Case("answer that ends in END", "", {"instruction": "SQL", "output": "CASE 1 ELSE 'shut' END"},
         chat(user("SQL"), answer("CASE 1 ELSE 'shut' END"))),
    Case("answer that ends in ###", "", {"question": "Heading?", "answer": "  ###"},
         chat(user("Heading?"), answer("  ###"))),
    Case("code that begins with blanks", "", {"prompt": "def f():\n", "completion": "    return 1\n"},
         chat(user("def f():\n"), answer("    return 1\n"))),
    Case("Dolly context", "", {"instruction": "Port?", "context": "It is 9443.", "response": "9443."},
         chat(user("Port?\n\nIt is 9443."), answer("9443."))),
    Case("SQuAD", "", {"id": "1", "title": "T", "context": "It is 9443.", "question": "Port?",
                       "answers": {"text": ["9443", "9443"], "answer_start": [6, 6]}},
         chat(user("Port?\n\nIt is 9443."), answer("9443"))),
    Case("conversational prompt/completion", "",
         {"prompt": [system("Short."), user("Hi")], "completion": [answer("Hello")]},
         chat(system("Short."), user("Hi"), answer("Hello"))),
    Case("Bedrock", "", {"schemaVersion": "bedrock-conversation-2024", "system": [{"text": "Short."}], "messages": [
        {"role": "user", "content": [{"text": "Hi"}]}, {"role": "assistant", "content": [{"text": "Hello"}]}]},
        chat(system("Short."), user("Hi"), answer("Hello"))),
    Case("Bedrock tools", "", {"messages": [
        {"role": "user", "content": [{"text": "Rome?"}]},
        {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t", "name": "w", "input": {}}}]},
        {"role": "user", "content": [{"toolResult": {"toolUseId": "t", "content": [{"json": {"t": 20}}]}}]},
        {"role": "assistant", "content": [{"text": "20."}]}],
        "toolConfig": {"tools": [{"toolSpec": {"name": "w", "inputSchema": {"json": TOOL["parameters"]}}}]}},
        chat(user("Rome?"), calls(call("{}", call_id="t")), result('{"t": 20}', "t"), answer("20."),
             tools=[{"type": "function", "function": {"name": "w", "parameters": TOOL["parameters"]}}])),
    Case("a call whose key has a hyphen", "", {"messages": [
        user("Rome?"),
        {"role": "assistant", "content": [{"tool-use": {"id": "t", "name": "w", "input": {}}}]},
        {"role": "user", "content": [{"tool-result": {"id": "t", "content": [{"text": "20"}]}}]},
        answer("20.")]},
        chat(user("Rome?"), calls(call("{}", call_id="t")), result("20", "t"), answer("20."))),
    Case("Vertex AI", "", {"systemInstruction": {"role": "system", "parts": [{"text": "Short."}]}, "contents": [
        {"role": "user", "parts": [{"text": "Hi"}]}, {"role": "model", "parts": [{"text": "Hello"}]}]},
        chat(system("Short."), user("Hi"), answer("Hello"))),
    Case("Vertex AI preference", "", {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}], "completions": [
        {"score": 0.0, "completion": {"role": "model", "parts": [{"text": "Go"}]}},
        {"score": 1.0, "completion": {"role": "model", "parts": [{"text": "Hello"}]}}]},
        pair([user("Hi")], "Hello", "Go")),
    Case("Cohere", "", {"messages": [{"role": "User", "content": "Hi"}, {"role": "Chatbot", "content": "Hello"}]}, HI),
    Case("Cohere message and history", "", {"preamble": "Short.", "message": "Bye", "chat_history": [
        {"role": "USER", "message": "Hi"}, {"role": "CHATBOT", "message": "Hello"}], "response": "Bye now"},
        chat(system("Short."), user("Hi"), answer("Hello"), user("Bye"), answer("Bye now"))),
    Case("LangSmith chat", "", {"inputs": {"messages": [{"type": "human", "data": {"content": "Hi"}}]},
                                "outputs": {"output": {"type": "ai", "data": {"content": "Hello"}}}}, HI),
    Case("LangSmith key-value", "", {"inputs": {"question": "Hi"}, "outputs": {"answer": "Hello"}, "id": "1"}, HI),
    Case("evals", "", {"input": [system("Short."), user("1+1")], "ideal": "2"},
         chat(system("Short."), user("1+1"), answer("2"))),
    Case("Label Studio", "", {"id": 1, "data": {"prompt": "Hi"}, "annotations": [
        {"result": [{"from_name": "a", "type": "textarea", "value": {"text": ["Hello"]}}]}]}, HI),
    Case("annotators who disagree", "", {"data": {"prompt": "Hi"}, "annotations": [
        {"result": [{"value": {"text": ["Hello"]}}]}, {"result": [{"value": {"text": ["Go"]}}]}]},
        "2 annotated answers differ"),
    Case("speakers ai and prompter", "", turns(("prompter", "Hi"), ("ai", "Hello")), HI),
    Case("speakers tool_call and tool_response", "",
         turns(("human", "Rome?"), ("gpt", "I look."), ("tool_call", '{"name": "w", "arguments": {}}'),
               ("tool_response", "20"), ("gpt", "20."), tools=""),
         chat(user("Rome?"), answer("I look.", tool_calls=[call("{}")]), result("20"), answer("20."))),
    Case("ShareGPT with two observations", "",
         turns(("human", "Rome?"), ("function_call", '[{"name": "w", "arguments": {"c": 1}},'
               ' {"name": "v", "arguments": {"c": 2}}]'), ("observation", "20"), ("observation", "9"), ("gpt", "Ok.")),
         chat(user("Rome?"), calls(call('{"c": 1}'), call('{"c": 2}', "v", "call_1")), result("20"),
              result("9", "call_1"), answer("Ok."))),
    Case("label_text beside label", "", {"text": "I like it", "label": 1, "label_text": "positive"},
         chat(user("I like it"), answer("positive"))),
    Case("text and label", "", {"text": "I like it", "label": "positive"}, chat(user("I like it"), answer("positive"))),
    Case("label beside an answer", "", {"question": "Hi", "answer": "Hello", "label": "greeting"},
         "label has no place"),
    Case("label beside an answer, ignored", "", {"question": "Hi", "answer": "Hello", "label": "greeting"}, HI,
         ConversionOptions(ignored_keys=frozenset({"label"}))),
    Case("negative example whose label is ignored", "", {"prompt": "Hi", "completion": "Go", "label": False},
         "negative example", ConversionOptions(ignored_keys=frozenset({"label"}))),
    Case("images beside the conversation", "", {**HI, "images": ["a.png"]}, "images has no place"),
    Case("capital headers", "", {"System": "Latin.", "Instruction": "Translate.", "Input": "dog", "Output": "canis"},
         chat(system("Latin."), user("Translate.\n\ndog"), answer("canis"))),
    Case("two columns that could be the question", "", {"prompt": "A", "question": "B", "answer": "C"},
         "it could be the question as well as 'prompt'"),
    Case("system message twice", "", {"system": "A", **chat(system("B"), user("Hi"), answer("Hello"))},
         "the conversation has another system message"),
    Case("thinking part", "", chat(user("Hi"), {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "greet"}, {"type": "text", "text": "Hello"}]}), "is reasoning"),
    Case("thinking part, dropped", "", chat(user("Hi"), {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "greet"}, {"type": "text", "text": "Hello"}]}), HI,
        ConversionOptions(reasoning="drop")),
    Case("reasoning column", "", {"Question": "Hi", "Complex_CoT": "greet", "Response": "Hello"},
         chat(user("Hi"), answer("<think>\ngreet\n</think>\n\nHello")), ConversionOptions(reasoning="think")),
    Case("xLAM", "", {"query": "Rome?", "tools": json.dumps([TOOL]),
                      "answers": '[{"name": "w", "arguments": {"c": "Rome"}}]'},
         chat(user("Rome?"), calls(call('{"c": "Rome"}')), tools=TOOLS)),
    Case("arguments encoded twice", "", chat(user("Rome?"), calls(call('"{\\"c\\": 1}"', call_id="a"))),
         chat(user("Rome?"), calls(call('{"c": 1}', call_id="a")))),
    Case("arguments as Python text", "", chat(user("Rome?"), calls(call("{'c': 'Rome'}", call_id="a"))),
         chat(user("Rome?"), calls(call('{"c": "Rome"}', call_id="a")))),
    Case("arguments that are no object", "", chat(user("Rome?"), calls(call("Rome"))), "the arguments are not a JSON"),
    Case("OASST message", "", {"message_id": "1", "parent_id": None, "text": "Hi", "role": "prompter"}, "OASST tree"),
    Case("rejected_response of ms-swift", "", {**HI, "rejected_response": "Go"}, pair([user("Hi")], "Hello", "Go")),
    Case("rejected_messages of ms-swift", "", {**HI, "rejected_messages": [user("Hi"), answer("Go")]},
         pair([user("Hi")], "Hello", "Go")),
    Case("query, response and rejected_response", "", {"query": "Hi", "response": "Hello", "rejected_response": "Go"},
         pair([user("Hi")], "Hello", "Go")),
    Case("choices beside the question", "", {"question": "Hi", "choices": ["a", "b"], "answer": "a"},
         "choices has no place"),
    Case("answer is an object", "", {"question": "Hi", "answer": {"a": 1}},
         "it is an object with the keys a, not text"),
    Case("answer is a tool call", "", {"input": "Rome?", "output": {"name": "w", "arguments": {"c": "Rome"}}},
         chat(user("Rome?"), calls(call('{"c": "Rome"}')))),
    Case("content is a list of texts", "", chat(user("Hi"), {"role": "assistant", "content": ["a", "b"]}),
         "it is a list of 2 texts, not text"),
    Case("thumbs down", "", {"prompt": "Hi", "completion": "Go", "feedback": "thumbs_down"}, "negative example"),
    Case("rating -1", "", {**HI, "rating": -1}, "negative example"),
    *(Case(f"{key} {value!r} is a bad answer", "", {"prompt": "Hi", "response": "Go", key: value}, "negative example")
      for key, value in (("preferred", False), ("accepted", False), ("is_safe", False), ("is_toxic", True),
                         ("thumbs_down", True), ("reward", -1.0), ("reward", 0), ("score", -1), ("feedback", "👎"),
                         ("quality", "bad"), ("status", "rejected"), ("negative", True), ("label", "no"))),
    *(Case(f"{key} {value!r} is no bad answer", "", {"prompt": "Hi", "response": "Hello", key: value}, HI)
      for key, value in (("preferred", True), ("is_safe", 1), ("is_toxic", False), ("score", 0), ("rating", 1),
                         ("status", "done"), ("label", "Yes"))),
    Case("address of an image as text", "",
         chat({"role": "user", "content": [{"type": "image_url", "image_url": "https://a/b.png"}]}, answer("Hello")),
         chat({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a/b.png"}}]},
              answer("Hello"))),
    Case("rejected_message of OpenPipe", "", {**HI, "rejected_message": answer("Go")},
         pair([user("Hi")], "Hello", "Go")),
    Case("options by letter", "", {"question": "Hi", "options": {"A": "a", "B": "b"}, "answer": "A"},
         "options has no place"),
    Case("options of a model", "", {"prompt": "Hi", "response": "Hello", "options": {"temperature": 0.1}}, HI),
    Case("answer of a model beside the right one", "", {"question": "Hi", "answer": "Go", "ground_truth": "Hello"},
         "it could be the answer as well as 'answer'"),
    Case("ground truth", "", {"question": "Hi", "ground_truth": "Hello"}, HI),
    Case("failed request of the Batch API", "", {"custom_id": "1", "response": None, "error": {"code": "x"}},
         "the request failed"),
    Case("messages by column", "", {"messages": {"role": ["user", "assistant"], "content": ["Hi", "Hello"]}}, HI),
    Case("turns by column", "", {"conversations": {"from": ["human", "gpt"], "value": ["Hi", "Hello"]}}, HI),
    Case("results of tools as a turn of the user", "",
         chat(user("Rome?"), answer('<tool_call>\n{"name": "w", "arguments": {"c": "Rome"}}\n</tool_call>'),
              user("<tool_response>\n20\n</tool_response>"), answer("20.")),
         chat(user("Rome?"), calls(call('{"c": "Rome"}')), result("20"), answer("20."))),
    Case("tags of results without a call", "", chat(user("<tool_response>x</tool_response>"), answer("Hello")),
         chat(user("<tool_response>x</tool_response>"), answer("Hello"))),
    Case("tool results of Cohere", "", chat(
        {"role": "User", "content": "Rome?"},
        {"role": "Chatbot", "content": "I look.", "tool_calls": [{"name": "w", "parameters": {"c": "Rome"}}]},
        {"role": "Tool", "tool_results": [{"call": {"name": "w"}, "outputs": [{"t": 20}]}]},
        {"role": "Chatbot", "content": "20."}),
        chat(user("Rome?"), answer("I look.", tool_calls=[call('{"c": "Rome"}')]), result('[{"t": 20}]', name="w"),
             answer("20."))),
    Case("image in the result of a tool", "", chat(
        user("Look"), {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "w", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": [
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}}]}]},
        answer("A bee")), "has an image or document"),
    Case("turn that is marked as bad", "",
         chat(user("Hi"), answer("bad", feedback="negative"), user("Again"), answer("good", feedback="positive")),
         chat(user("Hi"), answer("bad", weight=0), user("Again"), answer("good"))),
    Case("bad turn with the weight 1", "", chat(user("Hi"), answer("bad", rating="thumbs_down", weight=1)),
         "it is marked as bad, but has the weight 1"),
    Case("dialogue as text before the completion", "",
         {"prompt": "\n\nHuman: Hi\n\nAssistant:", "completion": " Hello"}, HI),
    Case("messages under a key of one's own", "", {"id": 1, "our_turns": HI["messages"]}, HI),
    Case("two lists of messages", "", {"conversation_a": HI["messages"], "conversation_b": HI["messages"]},
         "it has several lists of messages"),
    Case("LangSmith with context", "",
         {"inputs": {"question": "Port?", "context": "9443"}, "outputs": {"answer": "9443"}},
         chat(user("Port?\n\n9443"), answer("9443"))),
    Case("LangSmith generations", "",
         {"inputs": {"input": "Hi"}, "outputs": {"generations": [[{"text": "Hello"}]]}}, HI),
    Case("items of the Responses API", "", {
        "input": [user("Rome?"), {"type": "function_call", "call_id": "c", "name": "w", "arguments": "{}"},
                  {"type": "function_call_output", "call_id": "c", "output": "20"}],
        "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "20."}]}]},
        chat(user("Rome?"), calls(call("{}", call_id="c")), result("20", "c"), answer("20."))),
    Case("results out of order", "", {"messages": [
        user("Hi"),
        {"role": "assistant", "content": [{"type": "tool_use", "id": i, "name": "w", "input": {}} for i in "ab"]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": i, "content": i} for i in "ba"]},
        answer("Ok")]},
        chat(user("Hi"), calls(call("{}", call_id="a"), call("{}", call_id="b")), result("b", "b"), result("a", "a"),
             answer("Ok"))),
    Case("contents without a role", "", {"contents": [
        {"parts": [{"text": "Hi"}]}, {"role": "model", "parts": [{"text": "Hello"}]}]}, HI),
    Case("messages as numpy prints them", "", {"messages": "[{'role': 'user'}\n {'role': 'assistant'}]"},
         "printed by Python"),
    Case("NeMo mask of the user", "", {"mask": "User", "system": "", "conversations": [
        {"from": "User", "value": "Hi", "label": None}, {"from": "Assistant", "value": "Hello", "label": None}]}, HI),
    Case("NeMo mask of the assistant", "", {"mask": "Assistant", "conversations": [
        {"from": "User", "value": "Hi"}, {"from": "Assistant", "value": "Hello"}]}, "mask has no place"),
    Case("NeMo attributes of a turn", "", {"conversations": [
        {"from": "User", "value": "Hi"}, {"from": "Assistant", "value": "Hello", "label": "quality:4"}]},
        "conversations[1].label has no place"),
    Case("tools in a message", "", chat({**system("S"), "tools": json.dumps([TOOL])}, user("Hi"), answer("Hello")),
         chat(system("S"), user("Hi"), answer("Hello"), tools=TOOLS)),
    Case("row that is not to be trained", "", {"question": "Hi", "answer": "Hello", "train": False},
         "the row is not to be learnt"),
    Case("row that is to be trained", "", {"question": "Hi", "answer": "Hello", "train": True, "weight": 1.0}, HI),
    Case("verdict beside named columns", "", {"q": "Hi", "a": "Go", "label": False}, "negative example",
         ConversionOptions(columns=("q", "a"))),
    Case("tags of tool calls that hold none", "", {"question": "Hi", "answer": "Write <tool_call>x</tool_call>"},
         chat(user("Hi"), answer("Write <tool_call>x</tool_call>"))),
    Case("function_call of a request", "", {"request": {"messages": [user("Hi")], "function_call": "auto"},
                                            "response": {"choices": [{"message": answer("Hello")}]}}, HI),
    Case("text of Argilla with its annotation", "",
         {"inputs": {"text": "Hi"}, "annotation": "Hello", "prediction": []}, HI),
    Case("answer beside a conversation", "", {"chat": [user("Hi")], "response": "Hello"}, HI),
    Case("weight of a call after text", "", {"conversations": [
        {"from": "human", "value": "Rome?"}, {"from": "gpt", "value": "I look."},
        {"from": "function_call", "value": '{"name": "w", "arguments": {}}', "weight": 0}]},
        chat(user("Rome?"), answer("I look."), calls(call("{}"), weight=0))),
    Case("encrypted reasoning", "", chat(user("Hi"), {"role": "assistant", "content": [
        {"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "Hello"}]}), "is encrypted reasoning"),
    Case("calls in additional_kwargs of LangChain", "", chat(
        {"type": "human", "data": {"content": "Rome?"}},
        {"type": "ai", "data": {"content": "", "additional_kwargs": {
            "function_call": {"name": "w", "arguments": "{}"}}}}), chat(user("Rome?"), calls(call("{}")))),
    Case("answer that is JSON with an author", "", {"prompt": "Extract", "completion": '{"from": "ann", "text": "x"}'},
         chat(user("Extract"), answer('{"from": "ann", "text": "x"}'))),
    Case("answer that is JSON with a role", "",
         {"prompt": "Extract", "completion": '[{"role": "nurse", "content": "x"}]'},
         chat(user("Extract"), answer('[{"role": "nurse", "content": "x"}]'))),
    Case("answer that is JSON with other keys", "",
         {"prompt": "Extract", "completion": '{"role": "user", "content": "x", "age": 3}'},
         chat(user("Extract"), answer('{"role": "user", "content": "x", "age": 3}'))),
    Case("named columns and a system message", "", {"q": "Hi", "a": "Hello", "System": "Short."},
         chat(system("Short."), user("Hi"), answer("Hello")), ConversionOptions(columns=("q", "a"))),
    Case("OASST text", "", {"text": "<|prompter|>Hi<|endoftext|><|assistant|>Hello<|endoftext|>"}, HI),
    Case("Zephyr text", "", {"text": "<|system|>\nShort.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello</s>\n"},
         chat(system("Short."), user("Hi"), answer("Hello"))),
    Case("ChatML text with another turn", "",
         {"text": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>tool\nx<|im_end|>\n<|im_start|>assistant\nHello"},
         "a turn does not end with <|im_end|>"),
    Case("LangChain run", "", {"inputs": {"messages": [[{"type": "human", "data": {"content": "Hi"}}]]},
                               "outputs": {"generations": [[{"text": "Hello"}]]}}, HI),
    Case("tuning examples of the Gemini API", "", {"text_input": "Hi", "output": "Hello"}, HI),
    Case("columns named after speakers", "", {"Customer": "Hi", "Agent": "Hello"}, HI),
    Case("customer who is a name", "", {"customer": "ACME", "answer": "Hello"}, "no column has a usual name"),
    Case("agent who is a name", "", {"question": "Hi", "answer": "Hello", "agent": "Bob", "user": "ann"}, HI),
    Case("source and target", "", {"source": "Hi", "target": "Hello"}, HI),
    Case("source that is no question", "", {"source": "wiki", "output": "Hello"}, "no column has a usual name"),
    Case("answer to another row", "", {"instruction": "Hi", "output": "Hello", "parent_id": "a1"},
         "parent_id has no place"),
    Case("item of the Evals API", "", {"item": {"question": "Hi", "answer": "Hello"}}, HI),
    Case("table of turns", "", {"conversation_id": 1, "role": "user", "content": "Hi"}, "the row is a single message"),
    Case("single message", "", user("Hi"), "the row is a single message"),
    Case("token ids", "", {"input_ids": [1, 2], "labels": [1, 2]}, "already tokenised"),
    Case("reinforcement data", "", {**chat(user("1+1")), "answer": "2"}, "reinforcement data"),
    Case("image in OpenAI's form", "", chat({"role": "user", "content": [
        {"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}]},
        answer("A bee")), chat({"role": "user", "content": [
            {"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}]},
        answer("A bee"))),
    Case("Llama 2 text", "", {"text": "<s>[INST] <<SYS>>\nShort.\n<</SYS>>\n\nHi [/INST] Hello </s>"},
         chat(system("Short."), user("Hi"), answer("Hello"))),
    Case("ChatML text", "", {"text": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"}, HI),
    Case("Alpaca text", "", {"text": "### Instruction:\nHi\n\n### Response:\nHello"}, HI),
]  # fmt: skip


def converted(case: Case, folder: Path) -> ConversionResult:
    path = folder / "data.json"
    path.write_text(json.dumps([case.record]), encoding="utf-8")
    return convert(path, folder / "out.jsonl", case.options)


@pytest.mark.parametrize("case", [*REPORTS, *FORMATS], ids=lambda case: case.name)
def test_convert_reads_or_names_the_shape(case: Case, tmp_path: Path) -> None:
    """Never something else than the right value: a record exactly as expected, or a named reason and no file."""
    if isinstance(case.expected, str):
        with pytest.raises(DatasetError) as caught:
            converted(case, tmp_path)
        assert case.expected in caught.value.message
        assert not (tmp_path / "out.jsonl").exists()
    else:
        done = converted(case, tmp_path)
        assert json.loads(done.output.read_text(encoding="utf-8")) == case.expected


def test_reports_name_their_source() -> None:
    assert len(REPORTS) >= 30
    assert all(case.source.count("/") >= 3 for case in REPORTS)
