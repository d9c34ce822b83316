"""Whether hosts answer, asked of all at once and in a few seconds; standard library only."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

CONNECT_SECONDS = 5.0
_PORTS = {"http": 80, "https": 443}


def silent(addresses: Sequence[str], seconds: float = CONNECT_SECONDS) -> dict[str, str]:
    """The hosts of these addresses that do not answer -> why not.

    A connection is opened and closed again, to the proxy where one is set. All are asked at the same time, and
    ``seconds`` are enough for all, even where the look-up of a name hangs.
    """
    answers: dict[str, str] = {}
    threads = []
    for address in dict.fromkeys(addresses):
        thread = threading.Thread(target=_ask, args=(address, seconds, answers), daemon=True)
        thread.start()
        threads.append(thread)
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    reasons = {address: answers.get(address, "does not answer") for address in dict.fromkeys(addresses)}
    return {str(urlsplit(address).hostname): reason for address, reason in reasons.items() if reason}


def _ask(address: str, seconds: float, answers: dict[str, str]) -> None:
    host, port = _way(address)
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except socket.gaierror:
        answers[address] = "name not found"
    except TimeoutError:
        answers[address] = "does not answer"
    except (OSError, ValueError) as error:
        answers[address] = str(getattr(error, "strerror", None) or error)
    else:
        answers[address] = ""


def _way(address: str) -> tuple[str, int]:
    """Host and port to connect to for an address: its own, or the proxy's."""
    parts = urlsplit(address)
    host = str(parts.hostname)
    proxy = getproxies().get(parts.scheme, "")
    if proxy and not proxy_bypass(host):
        parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    return str(parts.hostname), parts.port or _PORTS.get(parts.scheme, 80)
