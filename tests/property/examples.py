"""How many examples the property tests look at: enough for every run, and FASTLB_EXAMPLES=10000 for a long one."""

import os

from hypothesis import HealthCheck, settings

# No test here is timed: a slow machine is no failure. Building a head from parts discards nothing but takes a while.
QUIET = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}


def examples(usual: int) -> settings:
    """Decorator for @given tests: this many examples unless the environment asks for another number."""
    return settings(max_examples=int(os.environ.get("FASTLB_EXAMPLES", usual)), **QUIET)  # type: ignore[arg-type]
