"""The proxies: how each is configured and started for the same work. The configurations are in configs/."""

import contextlib
import os
import pwd
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.compare import native
from bench.compare.processes import PROXY_CPU, BenchError, Program, free_port, running
from tests.support.certificates import make_certificates

ADDRESS = "127.0.0.1"
CONFIGS = Path(__file__).parent / "configs"

NGINX, NGINX_BUFFERS, NGINX_UNBUFFERED, HAPROXY = "nginx", "nginx-buffers", "nginx-unbuffered", "haproxy"
RELAY, RELAY_POOLED, FASTLB = "relay", "relay-pooled", "fastlb"
PROXY_NAMES = (NGINX, NGINX_BUFFERS, NGINX_UNBUFFERED, HAPROXY, RELAY, RELAY_POOLED, FASTLB)
PEER = NGINX  # the proxy that the ratios are taken to
RELAYS = (RELAY, RELAY_POOLED)

MAX_CLIENTS = 10_600  # idle connections that are held, and some more
_BINARIES = {NGINX: "nginx", NGINX_BUFFERS: "nginx", NGINX_UNBUFFERED: "nginx", HAPROXY: "haproxy"}
_NGINX_TUNING = {
    NGINX_BUFFERS: "proxy_buffer_size 16k; proxy_buffers 16 32k; proxy_busy_buffers_size 64k; proxy_max_temp_file_size 0;",
    NGINX_UNBUFFERED: "proxy_buffering off; proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k;",
}
_LOGS = {
    "nginx.conf": {
        "": "access_log off;",
        "file": "access_log @DIRECTORY@/access.log combined;",
        "buffered": "access_log @DIRECTORY@/access.log combined buffer=64k flush=1s;",
    },
    "fastlb.toml": {"": "", "file": '[access_log]\nto = "@DIRECTORY@/access.log"\n'},
    "haproxy.cfg": {"": ""},
}
# 20 paths, written as TOML routes; nginx gets the same as locations. The traffic of all works asks for /bytes/, the checks for /head.
_PATHS = (
    *("=/", "=/head", "=/healthz", "/bytes/", "/held/", "/api/", "/api/v1/", "/api/v2/", "/static/", "/static/images/", "/assets/"),
    *("/downloads/", "/accounts/", "/orders/", "/search/", "/admin/", "/docs/", "/feeds/"),
    *("~^/users/[0-9]+/posts", "~^/tags/[a-z-]+$"),
)
# What each of them does with headers, besides what every proxy does anyway: one set and one removed, in both directions.
EDITS = {"request": ("X-Edge", "bench", "X-Internal"), "response": ("X-Served-By", "edge", "X-Powered-By")}


def _nginx_routes() -> str:
    (name, value, removed), (shown, text, hidden) = EDITS["request"], EDITS["response"]
    lines = [
        f"proxy_set_header {name} {value};",
        f'proxy_set_header {removed} "";',
        f"add_header {shown} {text};",
        f"proxy_hide_header {hidden};",
    ]
    for path in _PATHS:
        kind = path[0] if path[0] in "=~" else ""
        lines.append(f"location {kind} {path.removeprefix(kind)} {{ proxy_pass http://backends; }}")
    return "\n".join(lines)


def _fastlb_routes() -> str:
    (name, value, removed), (shown, text, hidden) = EDITS["request"], EDITS["response"]
    edits = f'request_headers = {{ set = {{ {name} = "{value}" }}, remove = ["{removed}"] }}\n'
    edits += f'response_headers = {{ set = {{ {shown} = "{text}" }}, remove = ["{hidden}"] }}\n'
    return "\n".join(f'[[routes]]\npath = "{path}"\npool = "backends"\n{edits}' for path in _PATHS)


_ROUTES = {
    "nginx.conf": {False: "location / { proxy_pass http://backends; }", True: _nginx_routes()},
    "fastlb.toml": {False: "", True: _fastlb_routes()},
    "haproxy.cfg": {False: ""},
}
# One file with key and certificate, in the directory above the proxies' own. All prefer AES-128-GCM; tickets as each has them by default.
_CERTIFICATE = "@DIRECTORY@/../server.pem"
_SUITE = "TLS_AES_128_GCM_SHA256"
_TLS = {
    "nginx.conf": (
        " ssl",
        f"ssl_certificate {_CERTIFICATE}; ssl_certificate_key {_CERTIFICATE}; ssl_protocols TLSv1.2 TLSv1.3; "
        f"ssl_conf_command Ciphersuites {_SUITE}; ssl_prefer_server_ciphers on;",
    ),
    "fastlb.toml": ("", f'tls = {{ certificates = ["{_CERTIFICATE}"] }}'),
    "haproxy.cfg": (f" ssl crt {_CERTIFICATE} alpn http/1.1 ciphersuites {_SUITE}", ""),
}
_NO_LOGS, _NO_ROUTES = {"": ""}, {False: ""}  # at layer 4
_STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")  # Debian's; where it is not, it is built in or missing
# The same for a second listener, beside a plain one.
_BESIDE = {
    "nginx.conf": f"listen @BESIDE_LISTEN@ ssl backlog=4096; {_TLS['nginx.conf'][1]}",
    "fastlb.toml": f'[[listeners]]\nname = "beside"\nbind = "@BESIDE_LISTEN@"\n{_TLS["fastlb.toml"][1]}',
    "haproxy.cfg": f"bind @BESIDE_LISTEN@{_TLS['haproxy.cfg'][0]}",
}
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # Debian keeps nginx and haproxy outside an ordinary user's PATH


@dataclass(frozen=True, slots=True)
class Setup:
    """How a proxy runs, where that is not as in most works.

    Args:
        logs: "" for no access log, "file" for one line per request to a file, "buffered" for what nginx gathers before it writes.
        routes: 20 routes with header edits in place of one.
        tls: clients speak TLS.
        beside: a second listener is for clients that do.
        http2: what nginx has to be told; fastlb speaks it anyway.
        tcp: layer 4.
        arguments: further ones of the command line.
    """

    workers: int = 1
    cpus: tuple[int, ...] = (PROXY_CPU,)
    logs: str = ""
    routes: bool = False
    tls: bool = False
    beside: bool = False
    http2: bool = False
    tcp: bool = False
    arguments: tuple[str, ...] = ()


USUAL = Setup()


@dataclass(frozen=True, slots=True)
class Proxy:
    name: str
    port: int
    program: Program
    home: Path  # its files
    scheme: str = "http"
    tls_port: int = 0  # of the second listener

    @property
    def target(self) -> str:
        return f"{ADDRESS}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.target}"


def executable(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SBIN}")


def why_missing(name: str) -> str | None:
    """Why a proxy cannot run here, or None when it can."""
    binary = _BINARIES.get(name)
    if binary and executable(binary) is None:
        return f"{binary} is not installed"
    if name == FASTLB:
        done = subprocess.run([sys.executable, "-m", "fastlb", "--version"], capture_output=True, text=True, check=False, cwd=native.ROOT)
        if done.returncode:
            return f"it does not start: {done.stderr.strip().rpartition(chr(10))[2]}"
    return None


@contextlib.contextmanager
def running_proxy(name: str, backend: str, directory: Path, setup: Setup = USUAL, label: str = "") -> Iterator[Proxy]:
    """A proxy that accepts connections. `label` is its name in the figures where it runs several times."""
    with launched_proxy(name, backend, directory, setup, label) as proxy:
        proxy.program.wait_until_listening(ADDRESS, proxy.port)
        proxy.program.refresh()
        yield proxy


@contextlib.contextmanager
def launched_proxy(name: str, backend: str, directory: Path, setup: Setup = USUAL, label: str = "") -> Iterator[Proxy]:
    """Start one proxy in front of `backend`; its files go to a directory of its own inside `directory`."""
    home = directory / re.sub("[, ]+", "-", label or name)
    home.mkdir(exist_ok=True)
    port = free_port()
    tls_port = free_port(port + 1) if setup.beside else 0
    command = _command(name, port, tls_port, backend, home, setup)
    with running(name, command, cpus=setup.cpus, directory=home, cwd=native.ROOT) as program:
        yield Proxy(label or name, port, program, home, "https" if setup.tls else "http", tls_port)


def make_certificate(directory: Path) -> None:
    """What the proxies whose directories are in this one serve."""
    made = make_certificates(directory, "bench.example", ADDRESS)
    made.chain.chmod(0o644)  # nginx and fastlb read it before they change their user, HAProxy as who it is


def _command(name: str, port: int, tls_port: int, backend: str, home: Path, setup: Setup) -> list[str]:
    if name in RELAYS:
        options = ["-p"] if name == RELAY_POOLED else []
        return [native.program("relay"), *options, ADDRESS, str(port), *backend.split(":")]
    if name == FASTLB:
        template = "fastlb-tcp.toml" if setup.tcp else "fastlb.toml"
        config = _fill(template, home, port, tls_port, backend, setup)
        return [sys.executable, "-m", "fastlb", "serve", "-c", str(config), *setup.arguments]
    path = executable(_BINARIES[name])
    if path is None:
        raise BenchError(f"{name} is not installed")
    if name != HAPROXY:
        return [
            path,
            "-p",
            str(home),
            "-e",
            "stderr",
            "-c",
            str(
                _fill("nginx-stream.conf" if setup.tcp else "nginx.conf", home, port, tls_port, backend, setup, _NGINX_TUNING.get(name, ""))
            ),
        ]
    return [path, "-db", "-f", str(_fill("haproxy-tcp.cfg" if setup.tcp else "haproxy.cfg", home, port, tls_port, backend, setup))]


def _fill(template: str, home: Path, port: int, tls_port: int, backend: str, setup: Setup, buffers: str = "") -> Path:
    text = (CONFIGS / template).read_text()
    values = {
        "LISTEN": f"{ADDRESS}:{port}",
        "BACKEND": backend,
        # nginx counts backend connections too, of which a session has one.
        "CONNECTIONS": MAX_CLIENTS * 2 if template == "nginx-stream.conf" else MAX_CLIENTS + (2048 if template == "nginx.conf" else 0),
        "FILES": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "BUFFERS": buffers,
        "DIRECTORY": home,
        "WORKERS": setup.workers,
        "HTTP2": " http2" if setup.http2 else "",
        "LOGS": _LOGS.get(template, _NO_LOGS)[setup.logs],
        "ROUTES": _ROUTES.get(template, _NO_ROUTES)[setup.routes],
        "STREAM_MODULE": f"load_module {_STREAM_MODULE};" if _STREAM_MODULE.exists() else "",
        "LISTEN_TLS": _TLS[template][0] if setup.tls else "",
        "TLS": _TLS[template][1] if setup.tls else "",
        "BESIDE": _BESIDE[template].replace("@BESIDE_LISTEN@", f"{ADDRESS}:{tls_port}") if setup.beside else "",
        "SCHEME": "https" if setup.tls else "http",
        "USER": pwd.getpwuid(os.getuid()).pw_name,
    }
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    text = text.replace("@DIRECTORY@", str(home))  # log lines and certificates name it
    config = home / template
    config.write_text(text)
    return config


def config_texts() -> dict[str, str]:
    """The configurations as measured, for the record."""
    return {path.name: path.read_text() for path in sorted(CONFIGS.iterdir())} | _NGINX_TUNING
