"""Where a route table in Redis is: URLs as other programs take them.

    redis://im:secret@redis-1:6379/0              a user and a password, as far as there are any, and the number of the database
    rediss://redis-1:6380?ca=/etc/im/ca.pem       with TLS; without `ca` the system's authorities are trusted
    unix:///run/redis/redis.sock?db=1             on this machine
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from OpenSSL import crypto
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates

from twisted_im.routing.table_redis import RedisServer

#: Seconds for a connection.
TIMEOUT = 3.0
_PORT = 6379


def redis_server(reactor: Any, url: str) -> RedisServer:
    """One server of a route table.

    Raises:
        ValueError: it is no such URL, or its authority is of no use; one line that says what can be done.
        OSError: the authority's file cannot be read.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or _PORT
        options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
        path = unquote(parts.path)
        number = options.pop("db", "0") if parts.scheme == "unix" else path.strip("/") or "0"
        database = int(number) if number.isdecimal() else -1
    except ValueError:
        raise _no_url(url) from None
    authority = options.pop("ca", "") if parts.scheme == "rediss" else ""
    if parts.scheme not in ("redis", "rediss", "unix") or options or database < 0 or parts.fragment:
        raise _no_url(url)
    if (parts.scheme == "unix") == bool(parts.hostname) or (parts.scheme == "unix" and not path.startswith("/")):
        raise _no_url(url)
    endpoint: IStreamClientEndpoint
    if parts.scheme == "unix":
        name = f"unix:{path}/{database}"
        endpoint = UNIXClientEndpoint(reactor, path, timeout=TIMEOUT)
    else:
        host = parts.hostname or ""
        name = f"{f'[{host}]' if ':' in host else host}:{port}/{database}"
        endpoint = HostnameEndpoint(reactor, host, port, timeout=TIMEOUT)
        if parts.scheme == "rediss":
            endpoint = wrapClientTLS(optionsForClientTLS(host, trustRoot=_authority(authority)), endpoint)
    return RedisServer(name, endpoint, unquote(parts.username or ""), unquote(parts.password or ""), database)


def _no_url(url: str) -> ValueError:
    """Never with the password: this is printed and logged."""
    begin, at, end = url.rpartition("@")
    plain = f"{begin.partition('://')[0]}://…{at}{end}" if at else url
    return ValueError(f"{plain!r} is no Redis: write redis://user:password@host:6379/0, rediss://host:6380?ca=FILE or unix:///path?db=0")


def _authority(path: str) -> Any:
    """Whom to trust; the system's, if there is none."""
    if not path:
        return None
    try:
        return trustRootFromCertificates([Certificate.loadPEM(Path(path).read_bytes())])
    except (crypto.Error, ValueError):
        raise ValueError(f"{path}: it holds no certificate of an authority; give a PEM file with one") from None
