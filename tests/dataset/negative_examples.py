"""For each rule valid data that resembles its fault: line 7 of an otherwise valid file, or a whole file."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from typing import Any

from tests.dataset.samples import chat, chats, graded, preference

Row = dict[str, Any]
Lines = list[Row | bytes]
ANSWER = {"role": "assistant", "content": "It is on its way and arrives on Friday."}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
PNG = b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + struct.pack(">II", 8, 8) + b"\x08\x02" + b"\x00" * 40


def exchange(question: str = "Where is my parcel?", answer: str = "On its way.", **answer_fields: Any) -> Row:
    """A record with a question and an answer."""
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **answer_fields}]
    }


def with_parts(*content: Row, answer: str = "Nice.") -> Row:
    """A record whose question consists of parts."""
    return {"messages": [{"role": "user", "content": list(content)}, {"role": "assistant", "content": answer}]}


def image(url: str) -> Row:
    """An image part."""
    return {"type": "image_url", "image_url": {"url": url}}


def call(name: str = "a", arguments: str = '{"city": "Oslo"}') -> Row:
    """A tool call."""
    return {"id": name, "type": "function", "function": {"name": "weather", "arguments": arguments}}


def with_calls(*calls: Row, after: tuple[Row, ...] = (), **more: Any) -> Row:
    """A record with tool calls of the assistant."""
    question = {"role": "user", "content": "Is it cold there?"}
    return {"messages": [question, {"role": "assistant", "tool_calls": list(calls)}, *after], "tools": [TOOL], **more}


def result(name: str = "a") -> Row:
    """The result of a tool call."""
    return {"role": "tool", "tool_call_id": name, "content": "cold"}


def after_roles(*roles: str) -> Row:
    """A question and an answer after messages of these roles."""
    return {"messages": [*({"role": role, "content": f"I am the {role}."} for role in roles), *exchange()["messages"]]}


def nested(depth: int) -> Row:
    """A deeply nested schema."""
    return {"type": "object", "properties": {"a": nested(depth - 1)}} if depth else {"type": "string"}


def raw(row: Row, old: str, new: str) -> bytes:
    """A record as bytes in which one text is replaced."""
    return json.dumps(row, ensure_ascii=False).replace(old, new).encode()


def labels(*numbers: int) -> Lines:
    """Records with label answers, sorted by label, with the given number of each."""
    words = [word for word, number in zip(("yes", "no", "maybe"), numbers, strict=False) for _ in range(number)]
    return [exchange(f"Is number {index} of the list even?", word) for index, word in enumerate(words)]


def preference_pairs(prefer_longer: int) -> Lines:
    """Twenty preference pairs; the given number of them prefer the longer answer."""
    rows: Lines = []
    for index in range(20):
        texts = [f"Answer {index}, in rather more words than that.", f"Short {index}."]
        good, bad = texts if index < prefer_longer else texts[::-1]
        rows.append({
            "input": {"messages": [{"role": "user", "content": f"Tell me about number {index}."}]},
            "preferred_output": [{"role": "assistant", "content": good}],
            "non_preferred_output": [{"role": "assistant", "content": bad}],
        })  # fmt: skip
    return rows


def with_system(*prompts: str) -> Lines:
    """Twelve records that use these system prompts in turn; an empty one means no system message."""
    rows: Lines = []
    for index, row in enumerate(chats(12)):
        prompt = prompts[index % len(prompts)]
        first = [{"role": "system", "content": prompt}] if prompt else []
        rows.append({"messages": [*first, *row["messages"]]})
    return rows


def pair(**changed: Any) -> Row:
    """A preference record with some keys changed."""
    return {**preference(6), **changed}


NEGATIVE_LINES: dict[str, Row | bytes] = {
    "FT004": exchange("Où est-il?", "Là-bas, très près. 你好"),
    "FT005": exchange("a\ufeffb"),
    "FT006": exchange("one\r\ntwo\rthree"),
    "FT007": b"  \t" + raw(exchange("Another thing."), "x", "x") + b"  ",
    "FT008": exchange("the text \\u0000 and a\ttab"),
    "FT012": raw(exchange("one SEP two"), "SEP", "\\u2028\\u0085"),
    "FT101": b'{\t"messages" : [ {"role":"user","content":"x"},{"role":"assistant","content":"yes"} ] }',
    "FT102": exchange("[1, 2]", '"text"'),
    "FT103": exchange("{}{}", '{"a": 1} {"b": 2}'),
    "FT104": exchange('{"role": 1, "role": 2, "messages":'),
    "FT105": with_calls(call(), tools=[{"type": "function", "function": {"name": "weather", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}, "n": {"type": "number", "maximum": 2**53}}}}}]),
    "FT106": raw(exchange("a SMILE b"), "SMILE", "\\ud83d\\ude00"),
    "FT107": with_calls(
        call(), tools=[{"type": "function", "function": {"name": "weather", "parameters": nested(28)}}]
    ),
    "FT108": {"foo": 1},
    "FT110": with_calls(call(), parallel_tool_calls=True),
    "FT201": {"messages": []},
    "FT202": {"messages": [ANSWER]},
    "FT203": {"messages": [{}, ANSWER]},
    "FT204": {"messages": [{"role": None, "content": "x"}, ANSWER]},
    "FT205": with_calls(call(), after=(result(), ANSWER)),
    "FT206": with_calls(call(), after=(result(), {"role": "assistant", "content": None, "refusal": "No."})),
    "FT207": with_parts({"type": "text", "text": "one"}, {"type": "text", "text": "two"}),
    "FT208": with_calls(call(), after=(result(), {"role": "assistant", "content": "", "tool_calls": [call("b")]})),
    "FT209": exchange(weight=0),
    "FT210": with_calls(call()),
    "FT211": {"messages": [{"role": "system", "content": "Be short."}, *exchange()["messages"]]},
    "FT212": after_roles("developer", "system"),
    "FT213": with_calls(call("a"), call("b"), after=(result("a"), result("b"), ANSWER)),
    "FT214": {"messages": [{"role": "user", "name": "ann", "content": "x"}, {**ANSWER, "refusal": None, "weight": 1}]},
    "FT215": {"messages": [*exchange("a", "b", weight=0)["messages"], *exchange()["messages"]]},
    "FT216": {"messages": [*exchange("a", "b", weight=0)["messages"], *exchange("c", "d", weight=1)["messages"]]},
    "FT217": {"messages": [{"role": "user", "name": "a_B-" * 16, "content": "x"}, ANSWER]},
    "FT218": exchange("<|nothing_special|> and < |im_end|> and <|im_end"),
    "FT219": {"messages": [{"role": "system", "content": "developer"}, *exchange()["messages"]]},
    "FT221": {"messages": [{"role": "system", "content": "a"}, *exchange()["messages"]]},
    "FT223": exchange("'role' and 'from' as \"role\"", '[{"role": "painter", "content": "colour"}]'),
    "FT301": {**exchange(), "tools": [{"type": "function", "function": {"name": "now"}}]},
    "FT302": {**exchange(), "tools": [{"type": "function", "function": {"name": "a_B-" * 16}}]},
    "FT303": with_calls(call(arguments=' {"city": "Oslo"}\n')),
    "FT304": with_calls(call(arguments='{"city": "Oslo", "unit": 1}')),
    "FT305": with_calls(call()),
    "FT306": with_calls(call("a"), after=(result("a"), {"role": "assistant", "tool_calls": [call("b")]})),
    "FT307": with_calls(call("a"), after=(result("a"), {"role": "assistant", "tool_calls": [call("a")]})),
    "FT308": with_calls(call(), parallel_tool_calls=False),
    "FT309": with_calls(call()),
    "FT311": with_calls(call()),
    "FT401": with_parts(image("https://a.org/x.png")),
    "FT402": with_parts(*[image(f"https://a.org/{n}.png") for n in range(10)]),
    "FT404": with_parts(image("data:image/png;base64," + base64.b64encode(PNG).decode())),
    "FT407": with_parts(image("https://a.org/x.bmp"), image("data:image/png;base64," + base64.b64encode(PNG).decode())),
    "FT408": with_parts({"type": "text", "text": "see https://a.org/x.png"}),
    "FT410": with_parts(image("https://10th.example.org/monkey=1.png?size=2")),
    "FT411": with_parts({"type": "image_url", "image_url": {"url": "https://a.org/x.png", "detail": "low"}}),
    "FT501": dict(reversed(preference(6).items())),
    "FT502": pair(preferred_output=[{"role": "assistant", "content": "One, as it should be."}]),
    "FT503": pair(preferred_output=[{"role": "assistant", "content": "Ask somebody else about number 7, please."}]),
    "FT504": pair(preferred_output=[{"role": "assistant", "content": "Ask somebody else about number 67."}]),
    "FT507": pair(input={"messages": [{"role": "user", "content": [{"type": "text", "text": "image_url"}]}]}),
    "FT508": pair(input={"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}),
    "FT601": {"messages": [{"role": "user", "content": "a"}, ANSWER, {"role": "user", "content": "b"}], "answer": "c"},
    "FT602": {"messages": after_roles("developer")["messages"][:2], "answer": "system"},
    "FT603": {"messages": [{"role": "user", "content": "b"}], "answer": None},
    "FT606": {"messages": [{"role": "user", "content": "Is the answer short?"}], "answer": "answer"},
    "FT805": exchange(answer="I cannot wait for it. As a language, Dutch is fine."),
    "FT807": exchange(
        answer="Use this, which is all of it so far as I know about the thing as such:\n```\nprint(1)\n```"
    ),
    "FT809": exchange("São Tomé, Ãrhus? déjà vu"),
    "FT810": exchange("👩\u200d💻 and 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"),
    "FT812": exchange(answer="one\n\n  two"),
    "FT813": exchange(answer="\n".join(f"{n}. Step {n} of a list: take {n * 7} from shelf {n}." for n in range(20))),
    "FT814": exchange("{{name}} TODO", "Put it on the to-do list: {{1}}, <inserted> and [Names]."),
    "FT816": exchange(answer="Gemini is a constellation, and Claude is a painter."),
    "FT901": exchange("sk-your-key-goes-here-please-now and AKIAIOSFODNN7EXAMPLE"),
    "FT902": exchange("mail ann@example.com, call 212-555-0123, order 4539 1488 0343 6468"),
    "FT904": exchange("What does <think> mean?"),
    "FT906": exchange("print('\\x1b[0m')"),
}  # fmt: skip
"""Code → one line of an otherwise valid file."""

NEGATIVE_FILES: dict[str, Callable[[], Lines]] = {
    "FT002": lambda: [chat(0)],
    "FT011": lambda: [*chats()],
    "FT111": lambda: [*chats(11), {"prompt": "a", "completion": "b"}],
    "FT112": lambda: [*chats(10)],
    "FT113": lambda: [*chats(50)],
    "FT310": lambda: [*chats(11), with_calls(call())],
    "FT312": lambda: [
        with_calls(call()), {**with_calls(call()), "tools": [json.loads(json.dumps(TOOL, sort_keys=True))]},
    ],
    "FT505": lambda: preference_pairs(15),
    "FT506": lambda: [preference(0), {**preference(0), "preferred_output": [ANSWER]}],
    "FT801": lambda: [*chats(11), exchange(chat(0)["messages"][0]["content"], "No.")],
    "FT803": lambda: [
        *chats(11), {"messages": [*after_roles("system")["messages"][:1], chat(0)["messages"][0], ANSWER]},
    ],
    "FT804": lambda: labels(16, 4),
    "FT806": lambda: with_system("You answer questions of customers.", "Translate what is said into French."),
    "FT808": lambda: [exchange(f"Give me number {n}.", f'{{"n": {n}}}') for n in range(12)],
    "FT815": lambda: [row for three in zip(labels(20), labels(0, 20), strict=True) for row in three],
    "FT817": lambda: with_system("You answer questions of customers.", ""),
}  # fmt: skip
"""Code → all records of a file."""


def negative_example(code: str) -> Lines:
    """The records of the negative example of a rule."""
    if code in NEGATIVE_FILES:
        return NEGATIVE_FILES[code]()
    make = {"FT5": preference, "FT6": graded}.get(code[:3], chat)
    good: Lines = [make(index) for index in range(12)]
    return [*good[:6], NEGATIVE_LINES[code], *good[7:]]
