"""Metrics, and whether this fastlb runs and serves: what machines ask for."""

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from fastlb.control_plane.admin.messages import answer
from fastlb.control_plane.metrics.exposition import OPENMETRICS_TYPE, TEXT_TYPE, CertificateReading, Node, render
from fastlb.control_plane.metrics.process import ProcessMetrics

if TYPE_CHECKING:
    from fastlb.control_plane.controller import Controller


def routes(controller: "Controller") -> list[Route]:
    process = ProcessMetrics()
    rendering = asyncio.Lock()  # a page takes memory: one at a time

    async def show_metrics(request: Request) -> Response:
        openmetrics = wants_openmetrics(request.headers.get("accept", ""))
        async with rendering:
            node = Node(
                controller.generation, controller.meters.labels(), list_certificates(controller), **controller.automation.describe()
            )
            page = await asyncio.to_thread(render, controller.shared, node, openmetrics, partial(process.render, openmetrics))
        return Response(page, headers={"content-type": OPENMETRICS_TYPE if openmetrics else TEXT_TYPE})

    async def show_health(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def show_readiness(request: Request) -> Response:
        reason = why_not_ready(controller)
        return answer({"errors": [reason]}, 503) if reason else PlainTextResponse("ready\n")

    return [Route("/metrics", show_metrics), Route("/healthz", show_health), Route("/readyz", show_readiness)]


def list_certificates(controller: "Controller") -> list[CertificateReading]:
    now = time.time()
    return [
        CertificateReading(one.certificate.cert, one.certificate.names, one.certificate.seconds_left(now), one.failure is not None)
        for one in controller.tls.list_kept()
    ]


def why_not_ready(controller: "Controller") -> str:
    """Why no client is served, or why no new one should come; "" if one may."""
    if not controller.generation:
        return "no snapshot is in force yet"
    states = {one.state for one in controller.processes if one.role == "worker"}
    if "draining" in states and "ready" not in states:
        return "fastlb drains"
    return "" if "ready" in states else "no worker is ready"


def wants_openmetrics(accept: str) -> bool:
    """Whether an Accept field prefers OpenMetrics 1.0 to the text format, which is for everybody else."""
    text, openmetrics = 0.0, 0.0
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        values = dict(parameter.partition("=")[::2] for parameter in parameters)
        try:
            quality = float(values.get("q", "1"))
        except ValueError:
            continue
        if kind == "application/openmetrics-text" and values.get("version", "1.0.0") == "1.0.0":
            openmetrics = max(openmetrics, quality)
        elif kind in ("text/plain", "text/*", "*/*"):
            text = max(text, quality)
    return openmetrics > 0 and openmetrics >= text
