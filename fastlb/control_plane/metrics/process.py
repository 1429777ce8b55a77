"""The controller's own process, as prometheus-client tells it: `process_...`."""

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import generate_latest as generate_text
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics


class ProcessMetrics:
    """To be made in the process that they are of."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)

    def render(self, openmetrics: bool) -> bytes:
        """Its families, without an end."""
        if openmetrics:
            page: bytes = generate_openmetrics(self._registry)  # type: ignore[no-untyped-call]
            return page.removesuffix(b"# EOF\n")
        return generate_text(self._registry)
