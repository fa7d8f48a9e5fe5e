"""Whether the host of a data set answers."""

from __future__ import annotations

from http.client import HTTPException
from threading import Event, Thread
from urllib.request import Request, urlopen

PROBE_SECONDS = 3.0
"""How long a data set's host may take to answer before it counts as out of reach."""


def answers(url: str, seconds: float = PROBE_SECONDS) -> bool:
    """Whether a server has this file, and says so in time."""
    answered = Event()

    def ask() -> None:
        try:
            request = Request(url, method="HEAD", headers={"User-Agent": "bsr-explorer"})
            with urlopen(request, timeout=seconds):
                answered.set()
        except (OSError, HTTPException, ValueError):  # the last for no address, as HF_ENDPOINT may be
            return

    # The timeout of a request does not cover the look-up of the host's name, which can take much longer.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()
