"""Where a route table in Redis is: URLs as other programs take them.

    redis://im:secret@redis-1:6379/0              a user and a password, as far as there are any, and the number of the database
    rediss://redis-1:6380?ca=/etc/im/ca.pem       with TLS; without `ca` the system's authorities are trusted
    unix:///run/redis/redis.sock?db=1             on this machine
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from OpenSSL import crypto
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates

from twisted_im.routing.table_redis import RedisServer

#: Seconds for a connection.
TIMEOUT = 3.0
_PORT = 6379


class _Place(NamedTuple):
    """What a URL says."""

    scheme: str
    name: str
    host: str  # or the path of a socket
    port: int
    username: str
    password: str
    database: int
    authority: str


def redis_server(reactor: Any, url: str) -> RedisServer:
    """One server of a route table.

    Raises:
        ValueError: it is no such URL, or its authority is of no use; one line that says what can be done.
        OSError: the authority's file cannot be read.
    """
    place = _place(url)
    endpoint: IStreamClientEndpoint
    if place.scheme == "unix":
        endpoint = UNIXClientEndpoint(reactor, place.host, timeout=TIMEOUT)
    else:
        endpoint = HostnameEndpoint(reactor, place.host, place.port, timeout=TIMEOUT)
    if place.scheme == "rediss":
        endpoint = wrapClientTLS(optionsForClientTLS(place.host, trustRoot=_authority(place.authority)), endpoint)
    return RedisServer(place.name, endpoint, place.username, place.password, place.database)


def usable_redis(url: str) -> None:
    """Whether a table can be there, as far as this machine knows.

    Raises:
        ValueError: one line that says why not, and what can be done.
        OSError: a file cannot be read.
    """
    _authority(_place(url).authority)
    for library in ("txredisapi", "hiredis"):
        if find_spec(library) is None:
            raise ValueError(f"a route table in Redis wants {library}: pip install 'twisted_im[redis]'")


def without_password(url: str) -> str:
    """A URL that may be shown."""
    begin, at, end = url.rpartition("@")
    scheme, _, who = begin.partition("://")
    user, colon, _ = who.partition(":")
    return f"{scheme}://{user}{colon}{'…' if colon else ''}@{end}" if at else url


def _place(url: str) -> _Place:
    """Takes a URL apart.

    Raises:
        ValueError: it is none of a Redis.
    """
    shown = without_password(url)
    wrong = ValueError(f"{shown!r} is no Redis: write redis://user:password@host:6379/0, rediss://host:6380?ca=FILE or unix:///path?db=0")
    try:
        parts = urlsplit(url)
        port = parts.port or _PORT
        options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError:
        raise wrong from None
    path, host, scheme = unquote(parts.path), parts.hostname or "", parts.scheme
    local = scheme == "unix"
    number = options.pop("db", "0") if local else path.strip("/") or "0"
    authority = options.pop("ca", "") if scheme == "rediss" else ""
    if scheme not in ("redis", "rediss", "unix") or options or parts.fragment or not re.fullmatch(r"\d{1,5}", number, re.ASCII):
        raise wrong
    if local == bool(host) or (local and not path.startswith("/")):
        raise wrong
    where = f"unix:{path}" if local else f"{f'[{host}]' if ':' in host else host}:{port}"
    name, user, password = f"{where}/{int(number)}", unquote(parts.username or ""), unquote(parts.password or "")
    return _Place(scheme, name, path if local else host, port, user, password, int(number), authority)


def _authority(path: str) -> Any:
    """Whom to trust; the system's, if there is none."""
    if not path:
        return None
    try:
        return trustRootFromCertificates([Certificate.loadPEM(Path(path).read_bytes())])
    except (crypto.Error, ValueError):
        raise ValueError(f"{path}: it holds no certificate of an authority; give a PEM file with one") from None
