"""Group commit: what waits while the store is busy, and what becomes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from twisted_im.counters import Counters
from twisted_im.errors import Disconnect, ImError, Status
from twisted_im.server.ledger import Ledger


class Paper:
    """A store whose transactions end when the test says so."""

    batch = 3

    def __init__(self) -> None:
        self.calls: list[tuple[list[Any], list[Any], Deferred[Any]]] = []

    def append(self, messages: Sequence[Any], cursors: Sequence[Any]) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.calls.append((list(messages), list(cursors), done))
        return done

    def end(self) -> None:
        """The oldest open transaction succeeds; each entry's result is a tuple that holds it."""
        messages, cursors, done = self.calls.pop(0)
        done.callback(([(m,) for m in messages], [(c,) for c in cursors]))


class Writer:
    """A session and its pump, as far as a ledger sees them."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pump = self
        self.paused = 0
        self.ended: list[ImError] = []

    def suspend(self) -> None:
        self.paused += 1

    def resume(self) -> None:
        self.paused -= 1

    def disconnect(self, error: ImError) -> None:
        self.ended.append(error)


class TestLedger(TestCase):
    def setUp(self) -> None:
        self.store = Paper()
        self.broken: list[Any] = []
        self.unsure: list[Any] = []
        self.ledger = Ledger(self.store, Counters(), broken=self.broken.append, unsure=self.unsure.append, bound=5)
        self.answers: list[tuple[Any, Any]] = []
        self.ledger.on_messages = self.answered
        self.ledger.on_cursors = self.answered
        self.writer = Writer(1)

    def answered(self, origins: Sequence[Any], entries: Sequence[Any], results: Sequence[Any]) -> None:
        assert len(entries) == len(origins)
        for (_, name), result in zip(origins, results, strict=True):
            self.answers.append((name, result if isinstance(result, ImError) else result[0]))

    def write(self, entry: Any, *, writer: Any = None) -> None:
        self.ledger.messages.append(entry)
        self.ledger.message_origins.append((writer or self.writer, f"to {entry}"))  # type: ignore[arg-type]

    def test_one_transaction_for_all_that_waited(self) -> None:
        """Each message costs a transaction of its own, or an answer goes to somebody else."""
        self.write("a")
        self.ledger.commit()
        self.write("b")
        self.write("c")
        self.ledger.cursors.append("d")  # type: ignore[arg-type]
        self.ledger.cursor_origins.append((self.writer, "to d"))  # type: ignore[arg-type]
        self.ledger.commit()
        self.assertEqual([call[0] for call in self.store.calls], [["a"]])
        self.store.end()
        self.assertEqual([call[:2] for call in self.store.calls], [(["b", "c"], ["d"])])
        self.store.end()
        self.assertEqual(self.answers, [("to a", "a"), ("to b", "b"), ("to c", "c"), ("to d", "d")])
        self.ledger.commit()
        self.assertFalse(self.store.calls)

    def test_who_brings_too_much_waits(self) -> None:
        """A server whose disk has stalled fills its memory with what clients send."""
        self.write("a")
        self.ledger.commit()
        for entry in "bcdefg":
            self.write(entry)
            if len(self.ledger.messages) >= self.ledger.batch:
                self.ledger.crowded(self.writer)  # type: ignore[arg-type]
        self.assertEqual(self.writer.paused, 2)
        self.store.end()
        self.assertEqual(self.writer.paused, 0)
        self.store.end()
        self.assertEqual(len(self.answers), 7)

    def test_a_failure_for_now(self) -> None:
        """A message that was refused for now is overtaken by a later one of the same sender, or others suffer for it."""
        other = Writer(2)
        self.write("a")
        self.ledger.commit()
        self.write("b", writer=other)
        self.write("c")
        busy = ImError(Status.BUSY, retry_after=7)
        self.store.calls.pop(0)[2].errback(busy)
        self.assertEqual(self.answers, [("to a", busy), ("to c", busy)])
        self.assertEqual([(e.code, e.retry_after) for e in self.writer.ended], [(Disconnect.STORE_FAILED, 7)])
        self.assertFalse(other.ended)
        self.store.end()
        self.assertEqual(self.answers[2:], [("to b", "b")])
        self.assertFalse(self.broken)

    def test_a_broken_store(self) -> None:
        """A server goes on accepting messages after its disk has failed."""
        self.write("a")
        self.ledger.commit()
        self.store.calls.pop(0)[2].errback(OSError("input/output error"))
        self.assertEqual(len(self.broken), 1)
        self.write("b")
        self.ledger.commit()
        self.assertFalse(self.store.calls)
        self.assertFalse(self.answers)

    def test_a_fault_in_answering(self) -> None:
        """One fault in a feature stops all commits for ever, or leaves senders without an answer that comes no more."""
        self.ledger.on_messages = lambda *_: 1 // 0  # type: ignore[assignment, return-value]
        self.write("a")
        self.ledger.commit()
        self.store.end()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.unsure, [{self.writer}])
        self.write("b")
        self.ledger.commit()
        self.assertEqual(self.store.calls[0][0], ["b"])

    def test_a_store_that_raises(self) -> None:
        """One exception where a failed Deferred was due freezes the server in silence."""
        self.store.append = lambda *_: 1 // 0  # type: ignore[assignment, method-assign]
        self.write("a")
        self.ledger.commit()
        self.assertEqual(len(self.broken), 1)

    def test_answered_although_taken_back(self) -> None:
        """A server cannot be stopped while its store is out of reach."""
        self.write("a")
        self.ledger.commit()
        self.write("b")
        done = self.ledger.answered()
        self.store.calls.pop(0)[2].errback(ImError(Status.UNAVAILABLE))
        self.successResultOf(done)

    def test_answered(self) -> None:
        """A server that stops closes its store under a transaction, or a logout overtakes the messages before it."""
        self.successResultOf(self.ledger.answered())
        self.write("a")
        first = self.ledger.answered()
        self.write("b")
        second = self.ledger.answered()
        self.assertNoResult(first)
        self.store.end()
        self.successResultOf(first)
        self.assertNoResult(second)
        self.store.end()
        self.successResultOf(second)
