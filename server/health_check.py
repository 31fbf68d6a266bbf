"""Ask a server on this machine whether it lives: python -m server.health_check [URL]."""

from __future__ import annotations

import http.client
import ssl
import sys
import urllib.request
from typing import Final

_HERE: Final = "http://127.0.0.1:8000"
_WITHIN_S: Final = 3.0


def is_alive(url: str) -> bool:
    """Return whether the server at a URL answers /livez in time; its certificate is not looked at.

    It is for the server's public name, which this request need not know.
    """
    anybody = ssl.create_default_context()
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE
    try:
        with urllib.request.urlopen(f"{url}/livez", timeout=_WITHIN_S, context=anybody) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):  # urllib's own errors are OSErrors
        return False


if __name__ == "__main__":
    sys.exit(not is_alive(sys.argv[1] if len(sys.argv) > 1 else _HERE))
