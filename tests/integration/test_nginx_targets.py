"""replace_prefix beside nginx's proxy_pass with a URI: the same target for the same request, from a recorded table.

tests/support/record_nginx_targets.py is the recipe. Where nginx answers 400, so does fastlb.
"""

import json
from pathlib import Path

from tests.support.message import Message, request, response

ROWS = json.loads((Path(__file__).parent / "nginx_targets.json").read_text())


def echo_target(received: Message) -> bytes:
    return response(received.target.encode("latin-1"))


def test_target_is_the_one_that_nginx_makes(fastlb, instant):
    pairs = list(dict.fromkeys((path, uri) for path, uri, *_ in ROWS))
    assert len(ROWS) > 300
    routes = [
        {"host": f"h{number}.example", "path": path, "replace_prefix": uri, "pool": "main"} for number, (path, uri) in enumerate(pairs)
    ]
    lb = fastlb(pools={"main": {"backends": [instant(echo_target)]}}, routes=routes)
    client = lb.connect()
    for path, uri, target, status, sent in ROWS:
        answer = client.ask(request(target, host=f"h{pairs.index((path, uri))}.example"))
        assert (answer.status, answer.body.decode("latin-1") if status == 200 else None) == (status, sent), (path, uri, target)
        if answer.closes:
            client = lb.connect()
