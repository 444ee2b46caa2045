"""Endpoint strings: what they mean when they leave something out, and which files they read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.running import Authority
from twisted_im.edge.endpoints import local_unless_said, private_keys


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("tcp:7777", "tcp:7777:interface=127.0.0.1"),
        ("ssl:7778:privateKey=k.pem", "ssl:7778:privateKey=k.pem:interface=127.0.0.1"),
        ("tcp:7777:interface=0.0.0.0", "tcp:7777:interface=0.0.0.0"),
        ("tcp:7777:0.0.0.0", "tcp:7777:0.0.0.0"),
        ("unix:/run/im.sock", "unix:/run/im.sock"),
        ("tcp:7777:backlog=9", "tcp:7777:backlog=9:interface=127.0.0.1"),
        ("tcp:port=7777", "tcp:port=7777:interface=127.0.0.1"),
        ("ssl:7778:k.pem:c.pem", "ssl:7778:k.pem:c.pem:interface=127.0.0.1"),
        ("ssl:7778:privateKey=a\\:b.pem", "ssl:7778:privateKey=a\\:b.pem:interface=127.0.0.1"),
        ("tcp6:7777", r"tcp6:7777:interface=\:\:1"),
        (r"tcp6:7777:interface=\:\:", r"tcp6:7777:interface=\:\:"),
        ("tls:im.pem:port=7778", "tls:im.pem:port=7778:interface=127.0.0.1"),
        ("tls:im.pem:7778", "tls:im.pem:7778:interface=127.0.0.1"),
        ("tls:im.pem:7778:0.0.0.0", "tls:im.pem:7778:0.0.0.0"),
        ("tls:a\\:b.pem:port=7778:key=k.pem", "tls:a\\:b.pem:port=7778:key=k.pem:interface=127.0.0.1"),
        ("tls:pki:port=7778:interface=0.0.0.0", "tls:pki:port=7778:interface=0.0.0.0"),
        ("haproxy:tls:im.pem:port=7778", "haproxy:tls:im.pem:port=7778:interface=127.0.0.1"),
        ("tcp6:7777:50", r"tcp6:7777:50:interface=\:\:1"),
        (r"tcp6:7777:50:\:\:", r"tcp6:7777:50:\:\:"),
        ("TCP6:7777", r"TCP6:7777:interface=\:\:1"),
        ("ssl:7778:k.pem:c.pem:0.0.0.0:50", "ssl:7778:k.pem:c.pem:0.0.0.0:50"),
        ("tls:certs:7778:0.0.0.0:50", "tls:certs:7778:0.0.0.0:50"),
        ("haproxy:tcp:7777", "haproxy:tcp:7777:interface=127.0.0.1"),
        ("haproxy:tcp:7777:interface=0.0.0.0", "haproxy:tcp:7777:interface=0.0.0.0"),
    ],
)
def test_local_unless_said(asked: str, meant: str) -> None:
    """A server on somebody's laptop is open to the whole network without having been asked to be."""
    assert local_unless_said(asked) == meant


def test_private_keys(tmp_path: Path) -> None:
    """A private key that everybody on the machine may read goes unnoticed, since it is one of a folder or behind a balancer."""
    authority = Authority(tmp_path)
    one = authority.pair(tmp_path / "one.pem", "im.example.org")
    copy = tmp_path / "copy.pem"
    copy.write_bytes(one.read_bytes())
    (tmp_path / "many" / "certbot").mkdir(parents=True)
    two = authority.pair(tmp_path / "many" / "two.pem", "im.example.org")
    for name in ("fullchain.pem", "privkey.pem"):
        (tmp_path / "many" / "certbot" / name).write_bytes(two.read_bytes())
    many = [str(tmp_path / "many" / "certbot" / "privkey.pem"), str(two)]
    for asked, keys in (
        (f"ssl:0:privateKey={copy}:certKey={one}", [str(copy)]),
        (f"ssl:0:{one}:{copy}", [str(one)]),
        (f"tls:{one}:port=0", [str(one)]),
        (f"haproxy:tls:{one}:port=0", [str(one)]),
        (f"tls:{tmp_path}/many:port=0", many),
        ("tcp:7777", []),
        ("unix:im.sock", []),
    ):
        assert sorted(private_keys(asked)) == sorted(keys), asked
