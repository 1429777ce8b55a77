"""A gRPC server of grpcio whose messages are plain bytes, with what it has seen; and clients that call it again and again."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self

import grpc

from tests.support.waiting import DEADLINE_SECONDS, wait_until

SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"
ANY_SIZE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass
class Seen:
    """One call that waits until it is over."""

    seconds_left: float | None
    over: threading.Event = field(default_factory=threading.Event)


class GrpcBackend(grpc.GenericRpcHandler):
    """Serves the methods below under any service name.

    Args:
        chain: PEM certificates and a PEM key, for TLS.
        options: of grpcio's server.
    """

    def __init__(self, name: str = "one", chain: tuple[bytes, bytes] | None = None, options: Sequence[tuple[str, Any]] = ()) -> None:
        self.name = name
        self.health = SERVING
        self.n_calls = 0
        self.waiting: list[Seen] = []
        self._server = grpc.server(ThreadPoolExecutor(32), handlers=[self], options=[("grpc.so_reuseport", 0), *ANY_SIZE, *options])
        if chain is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(chain[1], chain[0])]))
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def end_connections(self) -> None:
        for seen in self.waiting:
            seen.over.set()

    def wait_for_call(self, n_before: int) -> Seen:
        """One that waits, beside so many that did before."""
        wait_until(lambda: len(self.waiting) > n_before, "the call has reached the backend")
        return self.waiting[n_before]

    def stop(self) -> None:
        """Takes no more calls, ends those that run, and says goodbye to everybody."""
        self._server.stop(DEADLINE_SECONDS).wait()

    def close(self) -> None:
        self.end_connections()
        self._server.stop(None).wait()

    def service(self, details: Any) -> Any:
        method = details.method.rpartition("/")[2]
        kinds = {
            "Check": (grpc.unary_unary_rpc_method_handler, lambda request, context: self.health),
            "Say": (grpc.unary_unary_rpc_method_handler, self._say),
            "Name": (grpc.unary_unary_rpc_method_handler, lambda request, context: self.name.encode()),
            "Fail": (grpc.unary_unary_rpc_method_handler, self._fail),
            "Wait": (grpc.unary_unary_rpc_method_handler, self._wait),
            "Count": (grpc.unary_stream_rpc_method_handler, self._count),
            "Watch": (grpc.unary_stream_rpc_method_handler, self._watch),
            "Join": (grpc.stream_unary_rpc_method_handler, lambda requests, context: b"".join(requests)),
            "Refuse": (grpc.stream_unary_rpc_method_handler, lambda requests, context: self._fail(b"9", context)),
            "Talk": (grpc.stream_stream_rpc_method_handler, self._talk),
        }
        if method not in kinds:
            return None
        if method != "Check":
            self.n_calls += 1
        make, serve = kinds[method]
        return make(serve)

    def _say(self, request: bytes, context: Any) -> bytes:
        """The request again; metadata too, before and behind."""
        asked = [(key, value) for key, value in context.invocation_metadata() if key.startswith("x-")]
        context.send_initial_metadata([*asked, ("x-peer", context.peer())])
        context.set_trailing_metadata([("x-last", "1"), ("x-raw-bin", bytes(range(256)))])
        return request

    def _fail(self, request: bytes, context: Any) -> bytes:
        """Ends with the code that it is given, and details that have to be encoded."""
        context.set_trailing_metadata([("x-why", "asked")])
        context.abort(next(code for code in grpc.StatusCode if code.value[0] == int(request)), "as asked: 100 % ✓\n")
        raise AssertionError

    def _wait(self, request: bytes, context: Any) -> bytes:
        self._see(context).over.wait()
        return b""

    def _see(self, context: Any) -> Seen:
        seen = Seen(context.time_remaining())
        context.add_callback(seen.over.set)
        self.waiting.append(seen)
        return seen

    def _count(self, request: bytes, context: Any) -> Iterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    def _watch(self, request: bytes, context: Any) -> Iterator[bytes]:
        """One message, and then nothing until the call is over."""
        seen = self._see(context)
        yield request
        seen.over.wait()

    def _talk(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Answers each message as it comes."""
        for request in requests:
            if request == b"watch":
                self._see(context)
            yield request


class Calls:
    """Unary calls on one channel, without a pause, while it is entered; `failures` is what went wrong, which ends a thread."""

    def __init__(self, target: str, threads: int = 2) -> None:
        self.channel = grpc.insecure_channel(target, options=[("grpc.default_authority", "grpc.example")])
        self.answered = 0
        self.failures: list[BaseException] = []
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()
        self.channel.close()

    def _call(self) -> None:
        say = self.channel.unary_unary("/test/Say")
        try:
            while not self._done.is_set():
                assert say(b"hello", timeout=DEADLINE_SECONDS) == b"hello"
                with self._lock:
                    self.answered += 1
        except BaseException as error:
            self.failures.append(error)

    def wait_for_answers(self, n: int) -> None:
        """So many more, unless something fails."""
        wanted = self.answered + n
        wait_until(lambda: self.answered >= wanted or self.failures, f"{n} more calls are answered")
