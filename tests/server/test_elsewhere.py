"""Where the clients of a node go that cannot keep them."""

from __future__ import annotations

from collections import Counter

from twisted_im.server.elsewhere import Elsewhere, reachable
from twisted_im.server.interfaces import Lease, Look

PHONE, HERE = "192.0.2.7:50000", "127.0.0.1:50000"


def elsewhere(**nodes: tuple[int, str]) -> Elsewhere:
    """What a node called `me` knows of others: their loads and addresses."""
    known = Elsewhere("me")
    known.look(Look(0.0, [Lease(name, b"", "tcp:127.0.0.1:7900", 0.0, load, clients) for name, (load, clients) in nodes.items()]))
    return known


def test_the_least_loaded_gets_more() -> None:
    """If this fails, all clients of a node that stops come to one other, which may be the fullest."""
    known = elsewhere(me=(0, "a:1"), leaving=(0, ""), full=(90, "a:2"), half=(40, "a:3"), new=(0, "a:4"))
    assert len(known) == 3
    sent = Counter(known.place(PHONE, secure=False) for _ in range(170))
    assert sent == {"a:2": 10, "a:3": 60, "a:4": 100}
    assert known.place(PHONE, secure=False, below=100) == ""
    known.look(Look(1.0, [Lease("half", b"", "", 0.0, 70, "a:3")]))
    assert known.place(PHONE, secure=False, below=100) == "a:3"


def test_each_goes_where_it_can() -> None:
    """If this fails, a client is sent to an address that it cannot reach, or has to speak TLS where nobody does, or in the clear."""
    known = elsewhere(one=(0, "tcp:127.0.0.1:1 tls:[::1]:2 tls:192.0.2.1:3"), two=(50, "im.example.org:4"))
    assert known.place(HERE, secure=False) == "127.0.0.1:1"
    assert known.place("::1:50000", secure=True) == "[::1]:2"
    assert known.place(PHONE, secure=True) == "192.0.2.1:3"
    assert known.place(PHONE, secure=False) == "im.example.org:4", "the other is this machine's own"
    assert known.place("unix", secure=False) == "", "a path is of no use to the client library"
    assert elsewhere().place(PHONE, secure=False) == ""


def test_what_is_told_of_ports() -> None:
    """If this fails, clients are sent to 0.0.0.0, or a process that shares its port with others sends clients round in a circle."""
    assert reachable([("tcp", "0.0.0.0:7777"), ("tls", "[::]:7778"), ("", "/run/im.sock"), ("", "10.0.0.5:7777")]) == ""
    assert reachable([("tcp", "127.0.0.1:7777"), ("tls", "[2001:db8::1]:7778")]) == "tcp:127.0.0.1:7777 tls:[2001:db8::1]:7778"
    known = elsewhere(one=(0, "tcp:127.0.0.1:1 tls:192.0.2.1:3"))
    assert known.shares("tcp:10.0.0.1:9 tcp:127.0.0.1:1")
    assert not known.shares("tcp:127.0.0.1:3")
    assert not known.shares("")
