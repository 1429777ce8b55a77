"""algorithm = "module:name" and python_path: what is a picker's name, and which settings one may have."""

import pytest

from fastlb.control_plane.config.loader import load_text
from tests.unit.control_plane.config.test_loader import MINIMAL, errors


def with_picker(name: str, more: str = "") -> str:
    return MINIMAL + f'algorithm = "{name}"\n{more}'


@pytest.mark.parametrize("name", ["module:name", "a.b.c:d.e", "_x1:y_2", "m\u00f6dul:f"])
def test_a_picker_is_named_by_its_module_and_function(name: str) -> None:
    assert load_text(with_picker(name), "f").config.pools[0].algorithm == name


@pytest.mark.parametrize("name", [":", "a:", ":b", "a:b:c", "a-b:c", "a:b()", "a..b:c", "a:b c", "1a:b", "../a:b"])
def test_what_python_could_not_find_is_refused(name: str) -> None:
    assert errors(with_picker(name)) == [
        f'6:13: "{name}" is not the name of a picker; it is the name of a Python module and of a function in it: "module:name"'
    ]


def test_a_picker_may_have_a_key_and_weights() -> None:
    text = with_picker("a:b", 'hash_key = "{client}"\n').replace('["10.0.0.1:80"]', '[{ address = "10.0.0.1:80", weight = 3 }]')
    assert load_text(text, "f").config.pools[0].algorithm == "a:b"


def test_a_picker_has_no_slow_start_and_no_balance_factor() -> None:
    assert errors(with_picker("a:b", 'slow_start = "30s"\nbalance_factor = 1.5\n')) == [
        '7:14: algorithm "a:b" has no slow start; a picker of your own gets the whole weights; leave slow_start out',
        '8:18: algorithm "a:b" has no balance factor; only "consistent_hash" has one',
    ]


def test_directories_of_pickers_are_absolute() -> None:
    head = '[global]\npython_path = ["/etc/fastlb", "lib"]\n'
    assert errors(head + MINIMAL) == ['2:31: "lib" is not an absolute path; workers run in a directory of their own: begin with /']
    text = '[global]\npython_path = "/etc/fastlb"\n' + MINIMAL
    assert load_text(text, "f").config.settings.python_path == ("/etc/fastlb",)
