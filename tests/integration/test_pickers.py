"""A pool that picks with a C function of the user's own, in real processes: loaded by the workers, refused where it cannot be."""

import subprocess
from pathlib import Path

import pytest

import fastlb as package

SOURCE = """
#include "picker.h"
int32_t last(const fastlb_pick_context *context) {
    int32_t index = (int32_t)context->n_backends - 1;
    while (!context->eligible[index])
        index--;
    return index;
}
int32_t outside(const fastlb_pick_context *context) { return (int32_t)context->n_backends; }
"""
MODULE = """
import ctypes, pathlib
library = ctypes.CDLL(str(pathlib.Path(__file__).with_name("pickers.so")))
last, outside = library.last, library.outside
def python(context):
    return 0
"""


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "pickers.c").write_text(SOURCE)
    include = Path(package.__path__[0])
    command = ["gcc", "-shared", "-fPIC", f"-I{include}", "-o", tmp_path / "pickers.so", tmp_path / "pickers.c"]
    subprocess.run(command, check=True)
    (tmp_path / "fastlb_test_pickers.py").write_text(MODULE)
    return tmp_path


def picking(backends, directory, name):
    addresses = ", ".join(f'"{backend.address}"' for backend in backends)
    return (
        f'[global]\npython_path = ["{directory}"]\n[[listeners]]\nname = "web"\nbind = "127.0.0.1:0"\n'
        f'[pools.main]\nalgorithm = "{name}"\nbackends = [{addresses}]\n'
    )


def requests_of(lb):
    return [row["requests"] for row in sorted(lb.backends(), key=lambda row: row["identity"])]


def test_requests_go_where_it_says(fastlb, instant, directory):
    backends = sorted((instant(), instant()), key=lambda backend: f"main|{backend.address}")
    lb = fastlb(picking(backends, directory, "fastlb_test_pickers:last"))
    for _ in range(10):
        assert lb.get().status == 200
    assert requests_of(lb) == [0, 10]
    assert lb.counter("picks_rejected") == 0


def test_answers_that_cannot_be_are_counted(fastlb, instant, directory):
    lb = fastlb(picking([instant(), instant()], directory, "fastlb_test_pickers:outside"))
    for _ in range(10):
        assert lb.get().status == 200
    assert requests_of(lb) == [5, 5]
    assert lb.counter("picks_rejected") == 10


def test_one_that_cannot_be_loaded_changes_nothing(fastlb, instant, directory):
    backends = [instant()]
    lb = fastlb(picking(backends, directory, "round_robin"))
    for name, reason in (
        ("fastlb_test_no_module:f", "ModuleNotFoundError: No module named 'fastlb_test_no_module'"),
        ("fastlb_test_pickers:nothing", "does not exist"),
        ("fastlb_test_pickers:python", "is no C function but function"),
    ):
        answer = lb.apply(picking(backends, directory, name))
        assert reason in str(answer), answer
        assert lb.get().status == 200
    assert lb.counter("picks_rejected") == 0
