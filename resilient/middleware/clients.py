"""Who asks: the address of a client, also where proxies stand in front of the service."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from resilient.core.checks import refuse

UNIX: Final = "unix"
"""In `trusted_proxies`: a peer without an address, as on a Unix socket."""

# Whoever can write the header can fill it with addresses that are trusted.
_MOST_PROXIES: Final = 20
_CUSTOMER: Final = 64

_Address = IPv4Address | IPv6Address


class Clients:
    """Tells the client of a request from its peer and its `X-Forwarded-For`, which only trusted peers may set.

    Each proxy appends the peer that it saw. So the list is read from its end, as long as who wrote an entry is trusted.
    """

    __slots__ = ("_networks", "_unix")

    def __init__(self, policy: str, trusted_proxies: Iterable[str]) -> None:
        if isinstance(trusted_proxies, str):
            refuse(policy, "trusted_proxies", trusted_proxies, "addresses and networks, as in ('10.0.0.0/8',)")
        self._networks: list[IPv4Network | IPv6Network] = []
        self._unix = False
        for proxy in trusted_proxies:
            if proxy == UNIX:
                self._unix = True
                continue
            try:
                # Numbers and bytes would be taken for addresses, too.
                self._networks.append(ip_network(str(proxy)))
            except ValueError:
                refuse(
                    policy,
                    "trusted_proxies",
                    proxy,
                    f"an address such as '127.0.0.1', a network such as '10.0.0.0/8', or {UNIX!r}",
                )

    def key(self, peer: str, forwarded: str | None) -> str:
        """What stands for the client: its IPv4 address, or the /64 network of its IPv6 address.

        A customer has a whole network of IPv6, and could come from another address each time. A peer that has no IP
        address is what the server calls it.
        """
        address = _parsed(peer)
        if forwarded and (self._trusts(address) if address is not None else self._unix and not peer):
            address = self._forwarded(forwarded) or address
        if address is None:
            return peer
        if isinstance(address, IPv4Address):
            return str(address)
        return str(IPv6Network((int(address) >> _CUSTOMER << _CUSTOMER, _CUSTOMER)))

    def _forwarded(self, forwarded: str) -> _Address | None:
        """The last entry that no trusted proxy is; what stands before one that is malformed is not believed."""
        known = None
        for entry in reversed(forwarded.rsplit(",", _MOST_PROXIES)[-_MOST_PROXIES:]):
            address = _parsed(entry.strip())
            if address is None:
                break
            known = address
            if not self._trusts(address):
                break
        return known

    def _trusts(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)


def _parsed(text: str) -> _Address | None:
    """An address, with or without a port, as proxies write them."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
