"""Logs: one JSON object a line, whatever is logged."""

from __future__ import annotations

import io
import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import Logger
from twisted.trial.unittest import TestCase

from twisted_im.jsonlog import JsonLog


class TestJsonLog(TestCase):
    def setUp(self) -> None:
        self.file = io.StringIO()
        self.log = Logger("somewhere", observer=JsonLog(self.file))

    def test_fields(self) -> None:
        """A log collector cannot find the time, the level, or the fields that were logged."""
        self.log.warn("{what} is {size}\nbig", what="it", size=3, thing=object())
        line = self.file.getvalue()
        self.assertEqual(line.count("\n"), 1)
        event = json.loads(line)
        self.assertRegex(event.pop("time"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        self.assertEqual(event, {"level": "warn", "from": "somewhere", "text": "it is 3\nbig", "what": "it", "size": 3})

    def test_failure(self) -> None:
        """A traceback tears one event into many lines, or is lost."""
        try:
            raise ValueError("wrong\nhere")
        except ValueError:
            self.log.failure("could not")
        event = json.loads(self.file.getvalue())
        self.assertEqual((event["level"], event["text"]), ("critical", "could not"))
        self.assertIn("ValueError: wrong", event["failure"])

    @given(st.dictionaries(st.text(alphabet="abcdefgh", min_size=1), st.text() | st.integers() | st.booleans(), max_size=4), st.text())
    def test_every_event_is_one_line(self, fields: dict[str, Any], text: str) -> None:
        """What somebody writes into a name or a reason breaks the log for whoever reads it line by line."""
        file = io.StringIO()
        Logger("somewhere", observer=JsonLog(file)).info("{text_}", text_=text, **fields)
        line = file.getvalue()
        self.assertEqual((line.count("\n"), line[-1]), (1, "\n"))
        event = json.loads(line)
        self.assertEqual({name: event[name] for name in fields}, fields)
        self.assertEqual(event["text"], text)

    def test_what_json_has_no_form_for(self) -> None:
        """If this fails, a log collector stops at a line that is no JSON, or the line of a file with an odd name is lost."""
        file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # as a log on a disk is written: not every string can be

        def no_number(word: str) -> None:
            raise AssertionError(f"{word} is no JSON")

        odd = "caf\udce9 \ud83d"
        fields = {"path": odd, "mean": math.nan, "most": math.inf, "least": -math.inf, "half": 0.5, odd: "name"}
        Logger("somewhere", observer=JsonLog(file)).info("{path} is gone, {mean}", **fields)
        try:
            raise ValueError(odd)
        except ValueError:
            Logger("somewhere", observer=JsonLog(file)).failure("could not")
        written = file.detach().getvalue().decode("utf-8")  # type: ignore[attr-defined]  # a BytesIO has it
        first, second = (json.loads(line, parse_constant=no_number) for line in written.splitlines())
        said = "caf\\udce9 \\ud83d"
        self.assertEqual(first["text"], f"{said} is gone, nan")
        self.assertEqual(
            {name: first[name] for name in ("path", "mean", "most", "least", "half", said)},
            {"path": said, "mean": "nan", "most": "inf", "least": "-inf", "half": 0.5, said: "name"},
        )
        self.assertIn(said, second["failure"])

    def test_what_cannot_be_formatted(self) -> None:
        """A mistake in a log line hides the event that it was for."""
        self.log.info("{missing} is gone", event="lost")
        event = json.loads(self.file.getvalue())
        self.assertEqual(event["event"], "lost")
        self.assertIn("missing", event["text"])
