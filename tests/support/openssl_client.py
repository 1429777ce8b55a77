"""A TLS client that does what `ssl` has no words for: the OpenSSL that it is made of, by ctypes."""

import _ssl
import contextlib
import ctypes
import socket
from typing import Any

from tests.support.pair import Pair

MAX_FRAGMENT_512 = 1  # RFC 6066 section 4
_BUFFER = 1 << 16


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(_ssl.__file__)  # what it is linked with is found too
    for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new", "BIO_s_mem", "BIO_new", "SSL_get1_session"):
        getattr(library, name).restype = ctypes.c_void_p
    for name in ("ERR_peek_error", "ERR_get_error"):
        getattr(library, name).restype = ctypes.c_ulong
    library.ERR_error_string_n.argtypes = [ctypes.c_ulong, ctypes.c_char_p, ctypes.c_size_t]
    return library


class OpenSslClient:
    """One connection with the engine, whose every byte the test moves. `session`: of another client, as `session` gives it."""

    def __init__(self, world: Pair, *, max_fragment: int = 0, max_version: int = 0, alpn: bytes = b"", session: Any = None) -> None:
        self.world, self.sock, self.library = world, world.client(), _library()
        self.context = self._new("SSL_CTX_new", self._new("TLS_client_method"))
        if max_fragment:
            self._call("SSL_CTX_set_tlsext_max_fragment_length", self.context, ctypes.c_uint8(max_fragment))
        self._call("SSL_CTX_ctrl", self.context, 124, ctypes.c_long(max_version), None)  # SSL_CTRL_SET_MAX_PROTO_VERSION
        self.ssl = self._new("SSL_new", self.context)
        if alpn:
            self._call("SSL_set_alpn_protos", self.ssl, bytes([len(alpn)]) + alpn, len(alpn) + 1)
        if session:
            assert self._call("SSL_set_session", self.ssl, session) == 1
        self.incoming, self.outgoing = (self._new("BIO_new", self._new("BIO_s_mem")) for _ in range(2))
        for bio in (self.incoming, self.outgoing):
            self._call("BIO_ctrl", bio, 130, ctypes.c_long(-1), None)  # BIO_C_SET_BUF_MEM_EOF_RETURN: empty is no end
        self._call("SSL_set_bio", self.ssl, self.incoming, self.outgoing)
        self._call("SSL_set_connect_state", self.ssl)

    def __enter__(self) -> "OpenSslClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._call("SSL_set_shutdown", self.ssl, 3)  # both ways: else its session would count as broken
        self._call("SSL_free", self.ssl)
        self._call("SSL_CTX_free", self.context)
        self.sock.close()

    def _new(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        return ctypes.c_void_p(getattr(self.library, name)(*arguments))

    def _call(self, name: str, *arguments: Any) -> int:
        return int(getattr(self.library, name)(*arguments))

    def taken(self) -> bytes:
        """The records that are to be sent."""
        data, records = ctypes.create_string_buffer(_BUFFER), b""
        while (n := self._call("BIO_read", self.outgoing, data, _BUFFER)) > 0:
            records += data.raw[:n]
        return records

    def turn(self) -> None:
        """Sends what there is, and takes what there is."""
        self.sock.send(self.taken())
        self.world.engine.pump()
        with contextlib.suppress(BlockingIOError):
            data = self.sock.recv(_BUFFER)
            self._call("BIO_write", self.incoming, data, len(data))

    def shake(self) -> "OpenSslClient":
        self.world.pump_until(lambda: self._call("SSL_do_handshake", self.ssl) == 1 or self.turn())
        self.turn()
        return self

    def send(self, data: bytes) -> None:
        assert self._call("SSL_write", self.ssl, data, len(data)) == len(data)
        self.turn()

    def session(self) -> Any:
        """What another client can resume, once it has come; it is never freed."""
        return self._new("SSL_get1_session", self.ssl)

    def write_early(self, data: bytes) -> None:
        """Before the handshake is over (RFC 8446 section 2.3)."""
        n = ctypes.c_size_t()
        assert self._call("SSL_write_early_data", self.ssl, data, ctypes.c_size_t(len(data)), ctypes.byref(n)) == 1

    def was_early_taken(self) -> bool:
        return self._call("SSL_get_early_data_status", self.ssl) == 2  # SSL_EARLY_DATA_ACCEPTED

    def receive_until(self, mark: bytes) -> bytes:
        data, received = ctypes.create_string_buffer(_BUFFER), b""

        def has_come() -> bool:
            nonlocal received
            self.turn()
            while (n := self._call("SSL_read", self.ssl, data, _BUFFER)) > 0:
                received += data.raw[:n]
            return mark in received

        self.world.pump_until(has_come)
        return received

    def update_keys(self, times: int) -> bytes:
        """That many records which carry no data (RFC 8446 section 4.6.3)."""
        for _ in range(times):
            assert self._call("SSL_key_update", self.ssl, 0) == 1
            assert self._call("SSL_do_handshake", self.ssl) == 1
        return self.taken()

    def ask_to_renegotiate(self) -> bytes:
        """The record with which a client of TLS 1.2 asks for another handshake."""
        assert self._call("SSL_renegotiate", self.ssl) == 1
        self._call("SSL_do_handshake", self.ssl)
        return self.taken()

    def last_alert(self) -> str:
        """Reads on, and says what came of it."""
        data, said = ctypes.create_string_buffer(_BUFFER), ctypes.create_string_buffer(256)
        self._call("ERR_clear_error")

        def has_failed() -> bool:
            self.turn()
            self._call("SSL_read", self.ssl, data, _BUFFER)
            return self._call("ERR_peek_error") != 0

        self.world.pump_until(has_failed)
        self.library.ERR_error_string_n(self.library.ERR_get_error(), said, ctypes.c_size_t(256))
        return said.value.decode()

    @staticmethod
    def send_all(sock: socket.socket, data: bytes, pump: Any) -> None:
        """Until all is sent or the other side has closed."""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while data:
                try:
                    data = data[sock.send(data) :]
                except BlockingIOError:
                    pump()
