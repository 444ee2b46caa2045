"""How often a wrong password or token may be tried: for each account, and from each address.

Strategy: token buckets. Who asks whether a secret is right takes a token from two of them, and gets both back if it was right, or was not
judged; so what many connections try at the same moment counts too, and a right one wipes out nothing that was wrong before. An address has
fewer than an account: one address cannot use up an account's, so its user gets in from elsewhere. Whoever finds a bucket empty is told to
come back, right or wrong, and nothing is checked.

Resume tokens are not judged here: 256 random bits need no such help, and a user whose account is being tried stays online.
"""

from __future__ import annotations

import ipaddress
import math

from twisted_im.core.pacing import Buckets
from twisted_im.errors import ImError, Status

#: NIST SP 800-63B-4, 3.2.2: no more than 100 wrong tries in a row for an account. An office behind one address mistypes now and then.
PER_ACCOUNT, ACCOUNT_EVERY = 100, 10.0
PER_ADDRESS, ADDRESS_EVERY = 30, 20.0


class Guesses:
    """The limits on guessing of one node.

    Args:
        per_account, per_address: wrong secrets that may be tried at once; 0 for any number.
        account_every, address_every: seconds after which one more may be tried.
        most: accounts, and addresses, that are remembered: those tried last.
    """

    def __init__(
        self,
        *,
        per_account: int = PER_ACCOUNT,
        per_address: int = PER_ADDRESS,
        account_every: float = ACCOUNT_EVERY,
        address_every: float = ADDRESS_EVERY,
        most: int = 10_000,
    ) -> None:
        self._accounts: Buckets[bytes | str] | None = Buckets(burst=per_account, every=account_every, most=most) if per_account else None
        self._addresses: Buckets[bytes | str] | None = Buckets(burst=per_address, every=address_every, most=most) if per_address else None

    def begin(self, user: bytes, peer: str, now: float) -> None:
        """A secret is about to be judged.

        Args:
            peer: where it comes from: "host:port".

        Raises:
            ImError: BUSY, if too many were wrong before.
        """
        buckets = self._of(user, peer)
        wait = max((bucket.wait(key, now) for bucket, key in buckets), default=0.0)
        if wait:
            raise ImError(Status.BUSY, "too many wrong passwords or tokens; try again later", retry_after=math.ceil(wait * 1000))
        for bucket, key in buckets:
            bucket.take(key, now)

    def was_none(self, user: bytes, peer: str) -> None:
        """It was right, or was not judged."""
        for bucket, key in self._of(user, peer):
            bucket.give_back(key)

    def _of(self, user: bytes, peer: str) -> list[tuple[Buckets[bytes | str], bytes | str]]:
        found: list[tuple[Buckets[bytes | str], bytes | str]] = []
        if self._accounts is not None:
            found.append((self._accounts, user))
        network = network_of(peer)
        if self._addresses is not None and network:
            found.append((self._addresses, network))
        return found


def network_of(peer: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 that an IPv6 host can choose its address in; empty for a Unix socket, whose
    other end has none.

    Args:
        peer: "host:port".
    """
    host = peer.rpartition(":")[0]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
    return host
