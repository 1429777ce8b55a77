"""Records what nginx's proxy_pass with a URI makes of targets: the table that tests/integration/test_nginx_targets.py compares fastlb with.

python tests/support/record_nginx_targets.py > tests/integration/nginx_targets.json      (nginx has to be installed)
"""

import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import quote

# location, and the URI of its proxy_pass
PAIRS = [("/a", "/"), ("/a/", "/"), ("/a", "/b"), ("/a/", "/b/"), ("/a", "/b/"), ("/a/", "/b"), ("/", "/b/"), ("/é", "/b")]
# behind the location
TARGETS = [
    *(
        "",
        "/",
        "x",
        "/x",
        "//x",
        "/x//y",
        "/./x",
        "/x/../y",
        "/x/.",
        "/x?q=1&r=%2F",
        "?",
        "?q",
        "/x?",
        "/x??y",
        "/%20",
        "/%2Fx",
        "/%3Bx",
        "/;x",
    ),
    *(
        "/%25",
        "/%3F",
        "/%23",
        "/%41",
        "/%22%3C%3E%5C%5E%60%7B%7C%7D",
        '/"<>\\^`{|}',
        "/%01",
        "/%7F",
        "/%C3%A4",
        "/%e4",
        "/a:b@c",
        "/x%2e",
        "/%",
    ),
    *("/x%2E%2E/y", "/+%2B", "/'()*!$&,=", "/~-_.", "/[x]", "/%5Bx%5D", "/x/%2e%2e/y", "/..x", "/.x.", "/%00"),
]


def answer(backend: socket.socket) -> None:
    """Answers each request with its target."""
    while True:
        connection, _ = backend.accept()
        head = connection.makefile("rb").readline()
        target = head.split(b" ")[1]
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(target), target))
        connection.close()


def ask(port: int, target: str) -> tuple[int, str | None]:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"GET {target} HTTP/1.0\r\n\r\n".encode())
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    status = int(head.split(b" ")[1])
    return status, body.decode("latin-1") if status == 200 else None


def main() -> None:
    backend = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=answer, args=(backend,), daemon=True).start()
    free = [socket.create_server(("127.0.0.1", 0)) for _ in PAIRS]
    ports = [listening.getsockname()[1] for listening in free]
    servers = "".join(
        f"server {{ listen 127.0.0.1:{port}; location {path} {{ proxy_pass http://127.0.0.1:{backend.getsockname()[1]}{uri}; }} }}\n"
        for (path, uri), port in zip(PAIRS, ports, strict=True)
    )
    for listening in free:
        listening.close()
    with tempfile.TemporaryDirectory() as directory:
        text = f"daemon off; master_process off; pid {directory}/pid; events {{}} http {{ access_log off; {servers} }}"
        Path(directory, "nginx.conf").write_text(text)
        nginx = subprocess.Popen(["nginx", "-p", directory, "-c", f"{directory}/nginx.conf", "-e", f"{directory}/error.log"])
        while True:
            try:
                ask(ports[-1], "/")
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        rows = []
        for (path, uri), port in zip(PAIRS, ports, strict=True):
            for behind in TARGETS:
                target = quote(path) + (behind.removeprefix("/") if path.endswith("/") else behind)
                rows.append([path, uri, target, *ask(port, target)])
        nginx.terminate()
        nginx.wait()
    unique = list(dict.fromkeys(json.dumps(row) for row in rows))
    sys.stdout.write("[\n" + ",\n".join(unique) + "\n]\n")


if __name__ == "__main__":
    main()
