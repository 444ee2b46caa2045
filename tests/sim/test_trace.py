"""The trace of a run: its digest, and the steps that are kept."""

from __future__ import annotations

from twisted_im.sim.trace import Step, Trace


def test_a_digest_is_of_every_step() -> None:
    """If this fails, two runs that differ count as the same, and one that cannot be repeated is not found."""
    kept, unkept, other = Trace(keep=True), Trace(), Trace()
    for trace in (kept, unkept, other):
        trace.note(0.1, "start", "alice")
    for trace in (kept, unkept):
        trace.note(0.1 + 0.2, "send", "alice", "bob", "5 bytes")
    other.note(0.3, "send", "alice", "bob", "5 bytes")
    assert kept.digest == unkept.digest != other.digest
    assert len(kept.digest) == 16
    assert (kept.count, unkept.count) == (2, 2)
    assert kept.steps == [Step(0.1, "start", "alice", "", ""), Step(0.1 + 0.2, "send", "alice", "bob", "5 bytes")]
    assert not unkept.steps
