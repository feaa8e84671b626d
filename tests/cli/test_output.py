"""What commands print, and with which code they end."""

import json

import pytest

from app.cli.output import Exit, Failure, errors_in_one_line, failure_of, print_list, print_one, read_object
from app.errors import ConnectionExists, RemoteUnreachable
from app.protocol.errors import InternalError, InvalidState, NotFound, Problem, invalid
from app.reports.paging import Page


def test_a_table_has_columns_as_wide_as_their_longest_cell(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": "1", "remoteName": "a long name"}, {"id": "22", "remoteName": None}]

    print_list(Page(rows, None, False), ("id", "remoteName"), "table")

    assert capsys.readouterr().out == "ID  REMOTE NAME\n1   a long name\n22  -\n"


def test_a_list_as_json_is_the_document_of_the_api(capsys: pytest.CaptureFixture[str]) -> None:
    print_list(Page([{"id": "1", "n": 2}], "abc", True), ("id",), "json")

    assert json.loads(capsys.readouterr().out) == {
        "data": [{"id": "1", "n": 2}],
        "nextCursor": "abc",
        "hasMore": True,
    }


def test_how_to_go_on_is_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    print_list(Page([{"id": "1"}], "abc", True), ("id",), "table")
    print_list(Page([], None, False), ("id",), "table")

    said = capsys.readouterr()
    assert said.out == "ID\n1\n"
    assert "--cursor abc" in said.err
    assert "Nothing is here." in said.err


def test_remote_text_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    print_one({"name": "evil\x1b[2J\nname\u202e", "sure": True, "tags": [], "more": {"a": 1}}, "table")

    assert capsys.readouterr().out == 'name  evil·[2J·name·\nsure  yes\ntags  -\nmore  {"a":1}\n'


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (NotFound("There is no such thing."), Exit.NOT_FOUND),
        (invalid("/slug", "has a wrong form"), Exit.USAGE),
        (InvalidState("It has ended."), Exit.FAILED),
        (ConnectionExists("There is one."), Exit.FAILED),
        (RemoteUnreachable("No answer."), Exit.FAILED),
        (InternalError(), Exit.FAILED),
    ],
)
def test_every_refusal_is_one_line_that_says_what_to_do(problem: Problem, code: Exit) -> None:
    failure = failure_of(problem)

    said, _, step = failure.message.partition(". ")
    assert failure.exit_code == code
    assert said
    assert len(step) > 10
    assert "\n" not in failure.message


def test_a_bad_field_is_named_once() -> None:
    failure = failure_of(invalid("/slug", "has a wrong form"))

    assert failure.message == "slug: has a wrong form. --help shows what is allowed."


def test_a_refusal_that_names_a_command_itself_gets_no_other_step() -> None:
    failure = failure_of(InvalidState("The key is another one: run `flask key reencrypt`."))

    assert failure.message == "The key is another one: run `flask key reencrypt`."


def test_problems_inside_a_command_end_it() -> None:
    with pytest.raises(Failure) as caught, errors_in_one_line():
        raise NotFound("There is no such thing")

    assert caught.value.exit_code == Exit.NOT_FOUND


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[1]", b'"a"', b'{"a":1,"a":2}', b"{} {}", b'{"a":NaN}', b"\xff"]
)
def test_what_is_no_json_object_is_a_mistake_of_the_caller(raw: bytes) -> None:
    with pytest.raises(Failure) as caught:
        read_object(raw, "--payload")

    assert caught.value.exit_code == Exit.USAGE
    assert caught.value.message.startswith("--payload")
