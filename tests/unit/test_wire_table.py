"""The table of what runs over which wire names tests that there are."""

from importlib import import_module

from tests.support.wire_table import EXCEPT, FILES, wires_of
from tests.support.wires import Wire


def test_every_name_is_that_of_a_test_which_would_run_otherwise():
    wires = {name: wires for wires, names in FILES.items() for name in names.split()}
    for without, names in EXCEPT.values():
        for name in names.split():
            file, _, test = name.rpartition(".")
            assert callable(getattr(import_module(f"tests.{file}"), test)), name
            assert set(without) & set(wires[file]), name


def test_a_test_runs_over_the_wires_of_its_file_but_for_its_exceptions():
    assert wires_of("tests.integration.test_trailers", "test_any") == [Wire.PLAIN, Wire.TLS, Wire.HTTP2]
    assert wires_of("tests.integration.test_mirror", "test_stopping_does_not_wait_for_a_shadow") == [Wire.PLAIN]
    assert wires_of("tests.conformance.test_limits", "TestLimits.test_any") == [Wire.PLAIN, Wire.TLS]
    assert wires_of("tests.integration.test_reload", "test_any") == [Wire.PLAIN]
