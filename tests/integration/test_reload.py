"""The configuration file read again: by a signal, by a question, by a watch. Nothing restarts, and no request sees more than a new route.

What a change of snapshots does to open connections is test_apply.py's; here is how one comes about.
"""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from tests.support.configuration import configuration
from tests.support.load import stands_still
from tests.support.message import request, response
from tests.support.waiting import DEADLINE_SECONDS, wait_until


def generation(lb):
    return lb.control.ask("counters")["generation"]


def pids(lb):
    return [(row["role"], row["pid"], row["restarts"]) for row in lb.processes()]


def test_sighup_reads_the_file_again(fastlb, instant):
    one, two = instant(response(b"one")), instant(response(b"two"))
    lb = fastlb([one])
    client = lb.connect()
    assert client.ask(request()).body == b"one"
    before = pids(lb)
    lb.rewrite(configuration([two]))
    lb.signal(signal.SIGHUP)
    lb.wait_for_reload()
    assert client.ask(request()).body == b"two"
    assert generation(lb) == 2
    assert pids(lb) == before


def test_reload_over_the_control_socket_answers_when_every_worker_changed(fastlb, instant):
    one, two = instant(response(b"one")), instant(response(b"two"))
    lb = fastlb([one], workers=2)
    answer = lb.reload_ok(configuration([two]))
    assert answer["generation"] == 2
    assert answer["warnings"] == []
    assert answer["milliseconds"] > 0
    for row in lb.processes():
        assert row.get("generation", 2) == 2
    for _ in range(10):
        assert lb.get().body == b"two"


def test_mistake_in_the_file_changes_nothing_and_is_said_with_its_place(fastlb, instant):
    lb = fastlb([instant()])
    lb.rewrite(configuration([instant()], settings={"nonsense": 1}))
    answer = lb.reload()
    assert answer["ok"] is False
    assert answer["errors"][0].startswith(f"{lb.config_path}:2:1: unknown key")
    assert "the configuration was not reloaded, and the one in force stays:" in lb.messages()
    assert answer["errors"][0] in lb.messages()
    assert generation(lb) == 1
    assert lb.get().status == 200
    lb.reload_ok(configuration([instant(response(b"better"))]))
    assert lb.get().body == b"better"


def test_address_in_use_changes_nothing_and_is_said(fastlb, instant, backend):
    lb = fastlb([instant()])
    lb.rewrite(configuration([instant()], listener={"bind": backend.address}))
    answer = lb.reload()
    assert answer["ok"] is False
    assert "address already in use" in answer["errors"][0]
    assert lb.get().status == 200


def test_file_that_is_gone_is_said(fastlb, instant):
    lb = fastlb([instant()])
    lb.config_path.unlink()
    assert lb.reload() == {"ok": False, "errors": [f"{lb.config_path}: no such file; give the path of a TOML file"]}


def test_reload_listens_on_a_new_address_and_leaves_the_old_socket_alone(fastlb, instant):
    backend = instant()
    lb = fastlb([backend])
    client = lb.connect()
    assert client.ask(request()).status == 200
    lb.reload_ok(configuration([backend], listener={"bind": ["127.0.0.1:0", "127.0.0.2:0"]}), new_sockets=1)
    assert lb.get(bind=1).status == 200
    assert lb.get(bind=0).status == 200
    assert client.ask(request()).status == 200


def test_command_line_holds_for_what_is_read_again(fastlb, instant):
    lb = fastlb([instant()], workers=1)
    lb.reload_ok(configuration([instant()], settings={"workers": 3}))
    assert len(lb.worker_pids()) == 1


def test_what_a_reload_cannot_change_is_named(fastlb, instant):
    lb = fastlb([instant()])
    answer = lb.reload_ok(configuration([instant()], settings={"pid_file": "/run/other.pid", "max_descriptors": 4000}))
    assert answer["warnings"] == [
        'pid_file is read once, at the start: it stays "" until fastlb is started again with "/run/other.pid"',
        "max_descriptors is read once, at the start: it stays 0 until fastlb is started again with 4000",
    ]
    for warning in answer["warnings"]:
        assert f"fastlb: warning: {warning}" in lb.messages()


def test_many_signals_at_once_are_few_reloads(fastlb, instant):
    lb = fastlb([instant()])
    (controller,) = (row["pid"] for row in lb.processes() if row["role"] == "controller")
    os.kill(controller, signal.SIGSTOP)  # the first reload waits for it, however long the signals take
    wait_until(lambda: stands_still(controller), "the controller stands still")
    for _ in range(50):
        lb.signal(signal.SIGHUP)
    os.kill(controller, signal.SIGCONT)
    assert lb.reload()["ok"]  # began after them
    assert generation(lb) <= 1 + 3
    assert lb.get().status == 200


def test_file_without_a_change_is_a_new_generation_of_the_same(fastlb, instant):
    lb = fastlb([instant()])
    client = lb.connect()
    assert client.ask(request()).status == 200
    assert lb.reload()["generation"] == 2
    assert client.ask(request()).status == 200
    assert lb.counter("backend_connections_opened") == 1


def test_controller_that_died_leaves_what_was_reloaded(fastlb, instant):
    lb = fastlb([instant(response(b"one"))])
    lb.reload_ok(configuration([instant(response(b"two"))]))
    (controller,) = (row["pid"] for row in lb.processes() if row["role"] == "controller")
    os.kill(controller, signal.SIGKILL)
    wait_until(lambda: "starting another" in lb.messages(), "its death is seen")
    lb.reconnect()
    assert lb.get().body == b"two"
    assert lb.reload_ok(configuration([instant(response(b"three"))]))["generation"] == 3
    assert lb.get().body == b"three"


@pytest.mark.parametrize("how", ["rename", "in place", "symlink"])
def test_watched_file_is_read_when_it_changes(fastlb, instant, how):
    def watched(backend):
        return configuration([backend], settings={"watch": True})

    one, two = instant(response(b"one")), instant(response(b"two"))
    lb = fastlb(watched(one))
    if how == "rename":
        lb.rewrite(watched(two))
    elif how == "in place":
        lb.config_path.write_text(watched(two))
    else:  # as Kubernetes does with a directory that is mounted
        link = lb.directory / "link"
        link.symlink_to(lb.write(watched(two)).name)
        link.rename(lb.config_path)
    lb.wait_for_reload()
    assert lb.get().body == b"two"
    lb.reload_ok(configuration([one]))
    assert lb.get().body == b"one"


def test_mistake_in_a_watched_file_is_said_once(fastlb, instant):
    lb = fastlb(configuration([instant()], settings={"watch": True}))
    lb.rewrite("nonsense")
    wait_until(lambda: "was not reloaded" in lb.messages(), "the mistake is said")
    lb.rewrite(configuration([instant(response(b"better"))], settings={"watch": True}))
    lb.wait_for_reload()
    assert lb.messages().count("was not reloaded") == 1
    assert lb.get().body == b"better"


# ---------------------------------------------------------------------------------------------- the commands
def run_command(lb, *arguments):
    command = [sys.executable, "-m", "fastlb", *arguments, "--admin", f"unix:{lb.directory}/control"]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)


def test_reload_command_says_what_came_of_it(fastlb, instant):
    lb = fastlb([instant()])
    lb.rewrite(configuration([instant(response(b"two"))], settings={"pid_file": "/run/x.pid"}))
    done = run_command(lb, "reload")
    lb.wait_for_reload()
    assert re.fullmatch(r"reloaded: generation 2, in [0-9]+ ms\n", done.stdout)
    assert done.stderr.startswith("fastlb: warning: pid_file is read once")
    assert done.returncode == 0
    assert lb.get().body == b"two"
    done = run_command(lb, "reload", "--json")
    lb.wait_for_reload()
    assert json.loads(done.stdout)["generation"] == 3


def test_reload_command_fails_with_the_mistakes_of_the_file(fastlb, instant):
    lb = fastlb([instant()])
    lb.rewrite(configuration([instant()], settings={"nonsense": 1}))
    done = run_command(lb, "reload")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f'fastlb: {lb.config_path}:2:1: unknown key "nonsense"')
    done = run_command(lb, "reload", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout)["errors"][0].startswith(f"{lb.config_path}:2:1: ")


def test_plan_command_compares_with_what_runs(fastlb, instant):
    one, two = instant(), instant()
    lb = fastlb([one], settings={"sticky_key": "0123456789abcdef"})
    same = run_command(lb, "plan", str(lb.config_path))
    assert (same.returncode, same.stdout) == (0, "nothing changes\n")
    other = lb.write(configuration([one, two], settings={"sticky_key": "0123456789abcdef"}))
    planned = run_command(lb, "plan", str(other))
    assert planned.returncode == 4
    assert planned.stdout == f"+ backend {two.address} of pool main (added)\n    weight 1\n1 change\n"
    written = json.loads(run_command(lb, "plan", str(other), "--json").stdout)
    assert [(one["what"], one["name"], one["how"]) for one in written["changes"]] == [("backend", two.address, "added")]
    assert run_command(lb, "plan", str(other), "--against", str(lb.config_path)).returncode == 4
    assert generation(lb) == 1  # nothing has been applied
    status, shown = lb.control.request("GET", "/v1/config")
    assert (status, shown["generation"]) == (200, 1)
    assert "0123456789abcdef" not in json.dumps(shown)


def test_plan_command_says_what_is_wrong_with_the_file(fastlb, instant):
    lb = fastlb([instant()])
    wrong = lb.write("nonsense")
    planned = run_command(lb, "plan", str(wrong))
    assert (planned.returncode, planned.stdout) == (2, "")
    assert planned.stderr.startswith(f"{wrong}:1:")
