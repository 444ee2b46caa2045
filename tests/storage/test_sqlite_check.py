"""What `check` finds: each fault is planted in a file that is otherwise whole."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from tests.storage.writer import filled, run
from twisted_im.storage.sqlite_check import MOST, QUESTIONS, findings
from twisted_im.storage.sqlite_file import look

GAP = "conversation 1: its head is 5 and its floor 0, but it has 4 rows, from 1 to 5"

#: what is looked at → (what is done to a file of five messages, what is said)
PLANTED = {
    "the store's own row": (
        "INSERT INTO store VALUES (x'00', 0, 0)",
        "the table store has 2 rows where one should be, or values that cannot be",
    ),
    "logs": ("UPDATE conversations SET floor = 6", "conversation 1: its head is 5 and its floor 6, but it has 5 rows, from 1 to 5"),
    "gaps": ("DELETE FROM messages WHERE seq IN (2, 3)", "conversation 1: rows 2 to 3 are missing"),
    "order": ("UPDATE messages SET id = id - (2 << 20) - 1 WHERE seq = 5", "conversation 1: row 5 was committed before the row below it"),
    "positions": ("UPDATE messages SET id = 99 << 20 WHERE seq = 5", "conversation 1: row 5 has the position 99, above the store's 6"),
    "changes": ("UPDATE conversations SET changed = 8", "conversation 1: it changed at the position 8, above the store's 6"),
    "messages without a conversation": (
        "UPDATE messages SET conversation = 9 WHERE seq = 5",
        "conversation 9: it does not exist, but 1 rows belong to it",
    ),
    "messages without a sender": (
        "UPDATE messages SET sender = 9 WHERE seq = 5",
        "conversation 1: row 5 is from the user 9, who does not exist",
    ),
    "members": ("INSERT INTO members VALUES (1, 9, 1, 0, 0)", "conversation 1: it or its member 9 does not exist"),
    "marks": (
        "UPDATE members SET delivered = 6 WHERE user = 2",
        "conversation 1: the marks of the user 2 are delivered 6 and read 5, where the head is 5",
    ),
    "direct conversations": (
        "INSERT INTO directs VALUES (2, 2, 9)",
        "the users 2 and 2: their conversation 9 does not exist, is a group, or has other members",
    ),
    "direct conversations of nobody": (
        "DELETE FROM directs",
        "conversation 1: it belongs to 0 pairs of users where one should be",
    ),
    "devices": ("UPDATE devices SET user = 9", "device 1: its user 9 does not exist, or its session 1 is above the store's 1"),
    "sessions": (
        "INSERT INTO devices VALUES (2, 1, x'00', 1, x'', 0, x'', 0, x'', 0, '')",
        "session 1: 2 devices have it",
    ),
    "cursors": (
        "UPDATE cursors SET seq = 6",
        "device 1: its cursor in the conversation 1 is 6, where the head is 5; or one of them does not exist",
    ),
}


def found(path: Path) -> list[str]:
    with closing(look(path)) as connection:
        return findings(connection, lambda what: None)


@pytest.mark.parametrize("what", QUESTIONS)
def test_a_planted_fault_is_found(what: str, tmp_path: Path) -> None:
    """If this fails, a damaged file is called whole, and put in place as a backup that is none."""
    path = filled(tmp_path / "messages.db", 5)
    assert found(path) == []
    done, said = PLANTED[what]
    run(path, done)
    assert said in found(path)


def test_more_rows_than_a_log_has_place_for(tmp_path: Path) -> None:
    """If this fails, a lost message is not noticed, because the others still count from one end to the other."""
    path = filled(tmp_path / "messages.db", 5)
    run(path, "DELETE FROM messages WHERE seq = 1")
    assert found(path) == ["conversation 1: its head is 5 and its floor 0, but it has 4 rows, from 2 to 5"]
    run(path, "UPDATE conversations SET floor = 1")
    assert found(path) == []
    run(path, "DELETE FROM messages WHERE seq = 5")
    assert found(path) == ["conversation 1: its head is 5 and its floor 1, but it has 3 rows, from 2 to 4"]


def test_many_findings_are_cut_short(tmp_path: Path) -> None:
    """If this fails, whoever looks at a damaged file gets a million lines."""
    path = filled(tmp_path / "messages.db", MOST + 5)
    run(path, "UPDATE messages SET sender = 9")
    lines = found(path)
    assert len(lines) == MOST + 1
    assert lines[-1] == "messages without a sender: more of the same"


def test_a_damaged_page_is_found(tmp_path: Path) -> None:
    """If this fails, a disk that loses bytes is noticed by the users first."""
    path = filled(tmp_path / "messages.db", 200, bytes(3000))
    assert found(path) == []
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 4096 // 2 * 4096)
        file.write(b"\xff" * 4096)
    lines = found(path)
    assert lines
    assert all("\n" not in line for line in lines)
