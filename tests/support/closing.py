"""What a test opened, closed in the order in which leaks can be told from what was merely in use."""

import sys
from typing import Protocol

from tests.support.process import Fastlb


class Ending(Protocol):
    def end_connections(self) -> None: ...
    def close(self) -> None: ...


class Closing:
    """Owns processes and backends until `end`."""

    def __init__(self) -> None:
        self.processes: list[Fastlb] = []
        self.backends: list[Ending] = []

    def end(self, failed: bool) -> None:
        """Ends everything; unless the test has failed already, whatever a process leaked or complained about is an error."""
        try:
            for process in self.processes:
                for peer in process.peers:
                    peer.close()
            for backend in self.backends:
                backend.end_connections()  # what waits for an answer then gets none
            if not failed:
                for process in self.processes:
                    process.stop()
        finally:
            for process in self.processes:
                messages = process.messages()
                process.kill()
                if messages:
                    print(f"standard error of fastlb ({process.directory}):\n{messages}", file=sys.stderr)
            for backend in self.backends:
                backend.close()
