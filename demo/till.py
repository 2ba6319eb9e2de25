"""A till that sells with an API key: what a program of a partner's does. `python -m demo.till URL PRODUCT [PIECES]`.

The key comes from the environment, BAKERY_API_KEY, and goes into the header X-API-Key and nowhere else.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from typing import Any

_ATTEMPTS = 3


def call(url: str, key: str, method: str, path: str, body: object = None) -> Any:
    """The JSON answer. Waits when the gateway says so; raises SystemExit with what a problem says."""
    request = urllib.request.Request(  # an address of the caller's own
        url + path,
        None if body is None else json.dumps(body).encode(),
        {"X-API-Key": key, "Content-Type": "application/json"},
        method=method,
    )
    for _ in range(_ATTEMPTS):
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                problem = json.load(error)
            if error.code not in (429, 503):
                raise SystemExit(f"till: {error.code} {problem['code']}: {problem['detail']}") from None
            time.sleep(float(error.headers.get("Retry-After", 1)))
    raise SystemExit("till: the gateway is busy, try again later")


def main(argv: list[str]) -> None:
    url, product, *rest = argv
    key = os.environ.get("BAKERY_API_KEY", "")
    sale = {"product": product, "pieces": int(rest[0]) if rest else 1}
    made = call(url.rstrip("/"), key, "POST", "/api/v1/sales/records", sale)
    sys.stdout.write(f"sold: {made['pieces']} x {made['product']}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
