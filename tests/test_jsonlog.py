"""Logs: one JSON object a line, whatever is logged."""

from __future__ import annotations

import io
import json

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
