"""Messages that come late: whose clock runs, and whose does not."""

from __future__ import annotations

from twisted_im.sim.prompt import PROMPT, RECOVERY, Prompt

PHONE, LAPTOP = "user0/phone", "user0/laptop"
BOTH = PHONE, LAPTOP


def test_what_is_late() -> None:
    """If this fails, messages between two nodes that do not hear each other may take until they do, and no run says so."""
    prompt = Prompt()
    assert not [*prompt.look(0.0, BOTH)]
    for device in BOTH:
        prompt.accepted(device, 1, 7, 1.0)
    assert not [*prompt.look(1.0 + PROMPT, BOTH)]
    prompt.shown(LAPTOP, 1, 7)
    assert [*prompt.look(1.5 + PROMPT, BOTH)] == [f"{PHONE} has not shown 1:7 {PROMPT:g} s after it was accepted"]
    prompt.shown(PHONE, 1, 8)
    prompt.accepted(PHONE, 1, 8, 2.0)  # its sender is told last
    assert not [*prompt.look(100.0, BOTH)]


def test_who_is_excused() -> None:
    """If this fails, runs are blamed for a device whose network was broken, or for a disk; or a device is excused for ever."""
    prompt = Prompt()
    assert not [*prompt.look(0.0, BOTH)]
    for device in BOTH:
        prompt.accepted(device, 1, 1, 0.0)
    prompt.excuse(PHONE, 5.0)
    assert [each[: len(LAPTOP)] for each in prompt.look(PROMPT + 1.0, BOTH)] == [LAPTOP]
    assert not [*prompt.look(PROMPT + 2.0, ())]  # nor is anybody late who is not online
    sound = max(5.0 + RECOVERY, PROMPT + 3.0)
    assert not [*prompt.look(sound, BOTH)]
    assert not [*prompt.look(sound + PROMPT, BOTH)]
    assert len([*prompt.look(sound + PROMPT + 1.0, BOTH)]) == 2
    prompt.excuse("", sound)
    assert not [*prompt.look(sound + RECOVERY - 1.0, BOTH)]
