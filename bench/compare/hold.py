"""Hold idle keep-alive connections that each made one request:  python hold.py ADDRESS PORT COUNT http|https

Prints "held" once all are open, and after a line on stdin how many of them are still open. A program of its own, so that
its memory and descriptors are not the proxy's.
"""

import select
import socket
import ssl
import sys


def open_connection(address: str, port: int, context: ssl.SSLContext | None) -> socket.socket:
    connection = socket.create_connection((address, port), timeout=10)
    if context:
        connection = context.wrap_socket(connection)
    connection.sendall(f"GET /bytes/128 HTTP/1.1\r\nHost: {address}:{port}\r\n\r\n".encode())
    received = b""
    while b"\r\n\r\n" not in received or len(received.partition(b"\r\n\r\n")[2]) < 128:
        piece = connection.recv(4096)
        if not piece:
            raise ConnectionError("closed before the answer was complete")
        received += piece
    if not received.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(f"answered {received[:60]!r}")
    return connection


def main() -> None:
    address, port, count, context = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), None
    if sys.argv[4] == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    held = [open_connection(address, port, context) for _ in range(count)]
    print("held", flush=True)
    sys.stdin.readline()
    poll = select.poll()
    for connection in held:
        poll.register(connection, select.POLLIN | select.POLLRDHUP)
    print(count - len(poll.poll(0)), flush=True)  # an idle connection has nothing to say; one that has was closed


if __name__ == "__main__":
    main()
