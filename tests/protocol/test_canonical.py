"""Strict reading and canonical writing: fast paths equal slow ones, and nothing unstrict gets through."""

import json
import math

import orjson
import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.protocol import canonical as module
from app.protocol.canonical import (
    MAX_DEPTH,
    MAX_INTEGER,
    MAX_VALUES,
    canonical,
    canonical_message,
    check_message,
    loads,
)
from app.protocol.errors import InvalidRequest


def is_writable(number: float) -> bool:
    return math.isfinite(number) and not MAX_INTEGER < abs(number) < 1e21


#: Text with many of the characters that sort or escape differently.
TEXTS = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
        st.sampled_from('\x01\x1f"\\/\x7f\u2028\ud7ff\ue000\uffff\U00010000\U0010ffff😀'),
    ),
    max_size=8,
)
FLOATS = st.one_of(
    st.floats().filter(is_writable),
    st.sampled_from([1e-3, 9.9e-4, 1e-5, 1e-6, 1e-7, 123.456, 2.0**52 + 0.5, 5e-324, 1e21, -0.0, 1.0]),
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-MAX_INTEGER, MAX_INTEGER), FLOATS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=6),
    max_leaves=12,
)


@given(VALUES)
@example({"\U00010000": 1, "\uffff": 2})
@example({"a😀": "\uffff", "b": 0.001})
@example([1e16 / 2, 2.0**53 - 1, -(2.0**53 - 1)])
@settings(max_examples=250)
def test_canonical_is_rfc_8785(value):
    assert canonical(value) == rfc8785.dumps(value)


@given(st.floats(1e-3, MAX_INTEGER).filter(lambda number: not number.is_integer()))
@settings(max_examples=250)
def test_fractions_of_ordinary_size_need_no_slow_path(number):
    assert module._write_fast([number, -number]) == rfc8785.dumps([number, -number])


def test_ordinary_messages_need_no_slow_path(monkeypatch):
    def refuse(value):
        raise AssertionError("slow path")

    monkeypatch.setattr(module, "_write_slowly", refuse)
    monkeypatch.setattr(module, "_loads_strictly", refuse)
    message = {"b": [1, None, True, 2.5], "a": {"text": "grüße 😀 \n", "price": 19.99}}

    text = canonical(message)

    assert loads(text) == message


@given(VALUES)
@settings(max_examples=250)
def test_what_was_written_is_read_again(value):
    again = loads(canonical([value]))

    assert again == [value]
    assert canonical(again) == canonical([value])


#: Pieces that make JSON which is nearly right.
NUMBERS = ["1", "-0", "12.50", "0.1", "1e16", "1e20", "1e21", "1E5", "9007199254740991", "9007199254740992"]
TEXT_PIECES = [r'"\u0000"', r'"\\u0000"', r'"\ud800"', '"x"']
PIECES = st.sampled_from(
    ['{"a":', '"b":', "[", "]", "{", "}", ",", "null", "true", "NaN", " ", *NUMBERS, *TEXT_PIECES]
)


@given(st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=6))
@example('[1e16,"a"]')
@example('{"e16":1e17}')
@example('["a\\\\u0000"]')
@settings(max_examples=250)
def test_fast_reading_accepts_only_what_strict_reading_does(text):
    try:
        expected = module._loads_strictly(text.encode())
    except InvalidRequest:
        with pytest.raises(InvalidRequest):
            loads(text.encode())
    else:
        assert loads(text.encode()) == expected


@given(st.binary(max_size=12))
@settings(max_examples=250)
def test_any_bytes_are_read_or_refused(raw):
    try:
        value = loads(raw)
    except InvalidRequest:
        return

    assert value == json.loads(raw)


def test_integers_are_refused_beyond_what_doubles_hold_however_long():
    for text in ("9007199254740992", "-9007199254740992", "1" * 5000, "1" + "0" * 25, "9007199254740993.5"):
        with pytest.raises(InvalidRequest):
            loads(f"[{text}]".encode())


def test_deep_nesting_is_refused_rather_than_overflowing():
    for depth in (255, 1_000, 5_000, 100_000):
        with pytest.raises(InvalidRequest):
            loads(b"[" * depth + b"]" * depth)
        with pytest.raises(InvalidRequest):
            loads(b'{"a":' * depth + b"1" + b"}" * depth)


def test_message_may_have_32_levels_and_10_000_values():
    deep: list = []
    for _ in range(MAX_DEPTH - 1):
        deep = [deep]
    wide = [0] * (MAX_VALUES - 1)

    check_message(deep)
    check_message(wide)


def test_one_level_or_value_more_is_refused_at_the_pointer():
    deep: dict = {}
    for _ in range(MAX_DEPTH):
        deep = {"a": deep}
    wide = {str(number): 0 for number in range(MAX_VALUES)}

    for value in (deep, wide):
        with pytest.raises(InvalidRequest) as refused:
            check_message(value, "/events/3/event")
        assert refused.value.errors[0].pointer == "/events/3/event"


def test_keys_do_not_count_as_values():
    check_message({str(number): 0 for number in range(MAX_VALUES - 1)})


@pytest.mark.parametrize(
    "value",
    [
        1e16,
        1e20,
        float("nan"),
        float("inf"),
        2**53,
        -(2**53),
        "\0",
        {"\0": 1},
        "\ud800",
        {"\udfff": 1},
        {1: 2},
        {1},
    ],
    ids=repr,
)
def test_what_no_receiver_would_accept_is_not_written(value):
    with pytest.raises(InvalidRequest):
        canonical([value])
    with pytest.raises(InvalidRequest):
        canonical_message({"a": [value]})


def test_escaped_backslash_before_u0000_is_no_null_character():
    assert loads(canonical(["\\u0000"])) == ["\\u0000"]


def test_members_left_out_still_count():
    message = {"payload": {}, "signature": [[]]}

    text = canonical_message(message, without=("signature", "absent"))

    assert text == b'{"payload":{}}'
    assert "signature" in message
    with pytest.raises(InvalidRequest):
        canonical_message({"signature": [0] * MAX_VALUES}, without=("signature",))


def test_subclasses_and_tuples_are_written_as_what_they_are():
    class Name(str):
        pass

    assert canonical({"a": (1, [Name("x")]), "b": ({"c": 1.5},)}) == b'{"a":[1,["x"]],"b":[{"c":1.5}]}'


def test_same_text_as_orjson_reads_where_both_are_strict():
    raw = b'{"a":[1,2.5,"x",null,true],"b":{"c":-3}}'

    assert loads(raw) == orjson.loads(raw)
