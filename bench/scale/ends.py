"""Both ends of thousands of TCP sessions, each a program of its own, so that its descriptors and memory are not the proxy's.

    python ends.py echo ADDRESS...                          prints a port for each address, then sends back what it is sent
    python ends.py hold ADDRESS PORT SOURCE COUNT           opens so many sessions from SOURCE, asks once on each and prints "held"

`hold` then reads words from its standard input: "look" prints how many sessions have had an event that nobody asked for, which only an
end or an error is; "ask" asks once more on each and prints how many have answered, and the seconds that it took; "end" closes them.
"""

import contextlib
import errno
import json
import select
import socket
import sys
import time

QUESTION = b"is anybody there"
AT_ONCE = 128  # that connect at a time: more would find the accept queue full and wait for a second
WAIT_SECONDS = 60.0


def echo(addresses: list[str]) -> None:
    poll = select.epoll()
    listening = {}
    for address in addresses:
        one = socket.create_server((address, 0), backlog=4096)
        one.setblocking(False)
        poll.register(one, select.EPOLLIN)
        listening[one.fileno()] = one
    print(*(one.getsockname()[1] for one in listening.values()), flush=True)
    sessions: dict[int, socket.socket] = {}
    while True:
        for number, _ in poll.poll():
            if number in listening:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        session, _ = listening[number].accept()
                        session.setblocking(False)
                        sessions[session.fileno()] = session
                        poll.register(session, select.EPOLLIN)
                continue
            try:
                data = sessions[number].recv(4096)
            except OSError:
                data = b""
            if data:
                sessions[number].send(data)
            else:
                sessions.pop(number).close()


class Held:
    """Sessions that are held."""

    def __init__(self, address: str, port: int, source: str) -> None:
        self.address, self.port, self.source = address, port, source
        self.poll = select.epoll()
        self.sessions: dict[int, socket.socket] = {}

    def begin(self) -> None:
        session = socket.socket()
        session.setblocking(False)
        session.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        session.bind((self.source, 0))
        result = session.connect_ex((self.address, self.port))
        if result not in (0, errno.EINPROGRESS):
            raise OSError(result, f"cannot connect from {self.source}: {errno.errorcode[result]}")
        self.sessions[session.fileno()] = session
        self.poll.register(session, select.EPOLLOUT | select.EPOLLET)

    def open(self, count: int) -> None:
        """So many sessions, each of which has been answered once."""
        answered = begun = 0
        while answered < count:
            while begun < count and begun - answered < AT_ONCE:
                self.begin()
                begun += 1
            for number, events in self.wait():
                session = self.sessions[number]
                if events & select.EPOLLOUT:
                    error = session.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if error:
                        raise OSError(error, f"session {answered}: {errno.errorcode[error]}")
                    session.send(QUESTION)
                    self.poll.modify(session, select.EPOLLIN)
                elif session.recv(4096) == QUESTION:
                    answered += 1
                else:
                    raise ConnectionError(f"session {answered} was not answered")

    def wait(self) -> list[tuple[int, int]]:
        found = self.poll.poll(WAIT_SECONDS, 1024)
        if not found:
            raise TimeoutError("nothing comes any more")
        return found

    def look(self) -> int:
        return len(self.poll.poll(0, len(self.sessions)))

    def ask(self) -> tuple[int, float]:
        began, answered = time.monotonic(), 0
        asked = 0
        sessions = list(self.sessions.values())
        while answered < len(sessions):
            while asked < len(sessions) and asked - answered < AT_ONCE:
                sessions[asked].send(QUESTION)
                asked += 1
            for number, _ in self.wait():
                if self.sessions[number].recv(4096) != QUESTION:
                    raise ConnectionError(f"after {answered} answers a session has ended")
                answered += 1
        return answered, time.monotonic() - began


def hold(address: str, port: int, source: str, count: int) -> None:
    held = Held(address, port, source)
    began = time.monotonic()
    held.open(count)
    print("held", round(time.monotonic() - began, 2), flush=True)
    for word in map(str.strip, sys.stdin):
        if word == "look":
            print(held.look(), flush=True)
        elif word == "ask":
            print(json.dumps(held.ask()), flush=True)
        else:
            return


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        echo(sys.argv[2:])
    else:
        hold(sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
