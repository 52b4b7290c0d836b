"""Members of JSON texts: added and removed without a change of any other character."""

from __future__ import annotations

import json

import pytest

from agent.skill.members import Unfit, at, put, take

pytestmark = pytest.mark.quick

KEYS, VALUE = ("servers", "own"), {"command": "x", "args": ["a"]}
TEXTS = {
    "empty": "{}",
    "others": '{\n  "a": 1,\n  "b": [1,  2]\n}\n',
    "tabs": '{\n\t"a": {"deep": [{}]}\n}',
    "one line": '{"a": 1, "b": "}{,"}',
    "servers": '{\n    "servers": {\n        "other": {"command": "y"}\n    },\n    "z": null\n}\n',
    "servers in one line": '{"servers": {"other": {}}}',
    "windows": '{\r\n  "a": 1\r\n}\r\n',
    "odd spaces": ' {  "a"  :  1  }  ',
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_put_adds_and_take_restores_every_character(text: str) -> None:
    new = put(text, KEYS, VALUE)
    found, before = json.loads(new), json.loads(text)
    assert found["servers"]["own"] == VALUE
    assert put(new, KEYS, VALUE) == new
    assert take(new, KEYS) == text
    del found["servers"]["own"]
    assert {**before, "servers": before.get("servers", {})} == found
    assert ("\r\n" in text) == ("\r\n" in new)
    assert new.replace("\r\n", "").count("\n") == (0 if "\r\n" in text else new.count("\n"))


def test_value_of_another_version_is_replaced() -> None:
    text = put(TEXTS["servers"], KEYS, {"command": "old"})
    assert put(text, KEYS, VALUE) == put(TEXTS["servers"], KEYS, VALUE)


def test_value_is_replaced_in_its_place() -> None:
    keys = (*KEYS, "command")
    assert put('{"servers": {"own": {"command": "old", "b": [1,  2]}}}', keys, ["x"]) == (
        '{"servers": {"own": {"command": ["x"], "b": [1,  2]}}}'
    )
    text = put(put(TEXTS["tabs"], KEYS, VALUE), (*KEYS, "env"), {"K": "v"})
    assert put(put(text, keys, "y"), keys, "x") == text
    assert at(put(text, keys, "y"), KEYS) == {"command": "y", "args": ["a"], "env": {"K": "v"}}
    assert at(text, ("servers", "other")) is None


def test_first_member_and_one_in_the_middle_are_taken() -> None:
    text = '{"servers": {"own": 1, "b": 2}, "c": 3}'
    assert take(text, KEYS) == '{"servers": {"b": 2}, "c": 3}'
    assert take(text, ("servers",)) == '{"c": 3}'
    assert take('{"a": 1, "servers": {"own": 1}, "c": 3}', KEYS) == '{"a": 1, "c": 3}'
    assert take('{"servers": {"own": 1}}', KEYS) == "{}"
    assert take(text, ("other", "own")) == text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{\n  // mine\n  "a": 1\n}', "has comments: "),
        ('{"a": 1,}', "is not valid JSON: "),
        ("", "is not valid JSON: "),
        ("[]", "is not a JSON object"),
        ('{"servers": []}', "has something else than an object under servers"),
        ('{"servers": {}, "servers": {}}', "has a key twice in one object"),
        ("[" * 100_000, "is nested too deeply"),
        (f'{{"a": {"9" * 5000}}}', "has a number that is too long"),
    ],
)
def test_other_texts_are_refused(text: str, fault: str) -> None:
    with pytest.raises(Unfit, match=fault):
        put(text, KEYS, VALUE)
    with pytest.raises(Unfit, match=fault):
        take(text, KEYS)
