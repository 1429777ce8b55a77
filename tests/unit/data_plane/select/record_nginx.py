"""Records which backend nginx picks, for the tests that want the same picks: `python -m tests.unit.data_plane.select.record_nginx`.

Runs the installed nginx with backends that answer with their number, asks it for many keys, and writes nginx_picks.json beside this file:
its version, and per scenario the weights, which backends are `down`, and one digit per key (or request) for the backend. Backends are
called 127.77.0.1:8001 and so on. Needs those ports to be free, and http_realip_module, which tells it other addresses of its client.
"""

import json
import subprocess
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

PICKS = Path(__file__).with_name("nginx_picks.json")
ADDRESS = "127.77.0.1"
FRONT = 8100
KEYS = [f"/{'item/' * (number % 4)}{number * number}" for number in range(300)] + [chr(97 + number) for number in range(26)]
CLIENTS = [f"{number % 223 + 1}.{number * 7 % 256}.{number * 13 % 256}.{number}" for number in range(200)]
CLIENTS += [f"2001:db8:{number * number:x}::{number:x}" for number in range(1, 100)]
DIRECTIVES = {"round_robin": "", "ip_hash": "ip_hash;", "hash": "hash $arg_k;", "consistent_hash": "hash $arg_k consistent;"}
# Weights, and which are down. The last of round_robin must come back to where it began.
WEIGHTS: list[tuple[list[int], list[int]]] = [([1, 1, 1], []), ([5, 1, 1], []), ([5, 1, 2, 7], [3]), ([2, 1, 1, 1, 1, 1, 3], [0, 4])]


def name_backend(number: int) -> str:
    return f"{ADDRESS}:{8001 + number}"


def configure(folder: str) -> str:
    servers = "".join(f"server {{ listen {name_backend(n)}; return 200 {n}; }}\n" for n in range(7))
    front = ""
    for at, directive in enumerate(DIRECTIVES.values()):
        for case, (weights, down) in enumerate(WEIGHTS):
            members = "".join(
                f"server {name_backend(n)} weight={weight}{' down' if n in down else ''};\n" for n, weight in enumerate(weights)
            )
            front += f"upstream u{at}_{case} {{ {directive}\n{members} }}\n"
    locations = "".join(
        f"location = /{at}/{case} {{ proxy_pass http://u{at}_{case}; }}\n" for at in range(len(DIRECTIVES)) for case in range(len(WEIGHTS))
    )
    front += f"server {{ listen {ADDRESS}:{FRONT}; set_real_ip_from 127.0.0.0/8; real_ip_header X-Real-IP;\n{locations} }}\n"
    paths = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return (
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log stderr error;\nevents {{}}\n"
        f"http {{ access_log off; {paths}\n{servers}{front} }}\n"
    )


def ask(at: int, case: int) -> Iterator[str]:
    name = list(DIRECTIVES)[at]
    requests = CLIENTS if name == "ip_hash" else KEYS if name != "round_robin" else range(60)
    for one in requests:
        query = urllib.parse.urlencode({"k": one}, safe="/:")
        request = urllib.request.Request(f"http://{ADDRESS}:{FRONT}/{at}/{case}?{query}", headers={"X-Real-IP": str(one)})
        with urllib.request.urlopen(request) as response:
            yield response.read().decode()


def record() -> None:
    version = subprocess.run(["nginx", "-v"], check=True, capture_output=True, text=True).stderr.split("/")[1].split()[0]
    picks: dict[str, list[dict[str, object]]] = {name: [] for name in DIRECTIVES}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "nginx.conf").write_text(configure(folder))
        arguments = ["nginx", "-p", folder, "-c", f"{folder}/nginx.conf", "-e", "stderr"]
        with subprocess.Popen(arguments) as nginx:
            try:
                while not Path(folder, "pid").exists() and nginx.poll() is None:  # written when every socket listens
                    pass
                for at, name in enumerate(DIRECTIVES):
                    for case, (weights, down) in enumerate(WEIGHTS):
                        picks[name].append({"weights": weights, "down": down, "picks": "".join(ask(at, case))})
            finally:
                nginx.terminate()
    PICKS.write_text(json.dumps({"nginx": version, **picks}, indent=1) + "\n")


if __name__ == "__main__":
    record()
