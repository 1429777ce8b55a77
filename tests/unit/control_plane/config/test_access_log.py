"""Formats, conditions and destinations of logs: what is understood, and what is said about the rest."""

import pytest

from fastlb.control_plane.config.errors import ConfigError, Rejected
from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.config.log_condition import AllOf, AnyOf, Comparison, Not, parse_condition
from fastlb.control_plane.config.log_destination import LogDestination, parse_destination
from fastlb.control_plane.config.log_format import COMBINED_TEXT, FIELDS, Field, parse_field, parse_format
from fastlb.control_plane.log_plan import build_log_plan, log_destinations, logs_of

REST = '[pools.a]\nbackends = ["127.0.0.1:1"]\n'
LISTENER = '[[listeners]]\nname = "web"\nbind = ":80"\n'


def rejection(parse, text):
    with pytest.raises(Rejected) as caught:
        parse(text)
    return caught.value


# ------------------------------------------------------------------------------------------------ formats
def test_a_text_is_split_into_literals_and_fields():
    pieces = parse_format("a {{{status}}} {request.User-Agent}|").pieces
    assert pieces == ("a {", Field("status", "text"), "} ", Field("request.user-agent", "text"), "|")


def test_combined_stands_for_its_text():
    assert parse_format("combined").pieces == parse_format(COMBINED_TEXT).pieces


def test_json_is_an_object_of_the_usual_fields():
    pieces = parse_format("json").pieces
    assert pieces[:3] == ('{"time":', Field("time", "json"), ',"listener":')
    assert pieces[-1] == "}"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("combind", 'unknown format "combind"'),
        ("", 'unknown format ""'),
        ("no field at all", "the format has no field"),
        ("{status", "the { at character 1 of the format is not closed"),
        ("ab {status} }", "the } at character 13 of the format closes nothing"),
        ("{stats}", 'there is no field "stats"'),
        ("{request.}", 'there is no field "request."'),
        ("{}", 'there is no field ""'),
        ("{status}\n", "character 9 of the format is a control character"),
        ("x" * 5000 + "{status}", "the format is too long"),
        ("{status}" * 200, "the format is too long"),
    ],
)
def test_a_format_that_is_wrong_says_where(text, found):
    assert rejection(parse_format, text).found == found


@pytest.mark.parametrize(
    ("name", "meant"),
    [("stats", "status"), ("remote_addr", "client"), ("$request_uri", "target"), ("http_user_agent", "request.user-agent"), ("zzzz", None)],
)
def test_a_field_that_there_is_not_is_explained(name, meant):
    assert rejection(parse_field, name).suggestion == meant


def test_every_field_can_be_compiled():
    for escape in ("text", "json"):
        listed = ", ".join(f'"{name}"' for name in FIELDS)
        text = "".join(f"{{{name}}}" for name in FIELDS)
        form = f'format = "json"\nfields = [{listed}]' if escape == "json" else f"format = '{text}'"
        plan, sets = build_log_plan(load_text(f'[access_log]\nto = "stdout"\n{form}\n{LISTENER}{REST}', "f").config)
        assert plan and sets == [0]


# ------------------------------------------------------------------------------------------------ conditions
def test_and_binds_closer_than_or_and_not_closer_than_both():
    a, b, c = (Comparison("status", "==", number) for number in (1, 2, 3))
    assert parse_condition("status == 1 or status == 2 and not status == 3").expression == AnyOf((a, AllOf((b, Not(c)))))
    assert parse_condition("(status == 1 or status == 2) and status == 3").expression == AllOf((AnyOf((a, b)), c))


@pytest.mark.parametrize(
    ("text", "comparison"),
    [
        ("status>=400", Comparison("status", ">=", 400)),
        ("duration > 1m30s", Comparison("duration_ms", ">", 90000)),
        ("bytes_sent < 1KiB", Comparison("bytes_sent", "<", 1024)),
        ("bytes_sent < 10", Comparison("bytes_sent", "<", 10)),
        ("keep_alive == false", Comparison("keep_alive", "==", 0)),
        ("path == '/a b'", Comparison("path", "==", text="/a b")),
        ('request.X-A contains "it\'s"', Comparison("request.x-a", "contains", text="it's")),
        ("method != POST", Comparison("method", "!=", text="POST")),
        ("host == ''", Comparison("host", "==", text="")),
    ],
)
def test_a_comparison_is_read(text, comparison):
    assert parse_condition(text).expression == comparison


def test_without_a_condition_everything_is_meant():
    assert parse_condition("").expression is None
    assert parse_condition("  ").expression is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("stats == 1", 'there is no field "stats" (character 1 of the condition)'),
        ("status", 'the condition ends where one of "==", "!=", "<", "<=", ">" or ">=" should come (character 7)'),
        ("status >=", "the condition ends where a value should come (character 10)"),
        ("status >= 1 and", "the condition ends where a field should come (character 16)"),
        ("status = 1", '"=" at character 8 of the condition'),
        ("status starts_with 4", '"starts_with" at character 8 of the condition'),
        ("path > a", '">" at character 6 of the condition'),
        ("status == 4xx", '"4xx" at character 11 of the condition'),
        ("status == -1", '"-1" at character 11 of the condition'),
        ("duration > 5", '"5" is not a duration (at character 12 of the condition)'),
        ("keep_alive == maybe", '"maybe" at character 15 of the condition'),
        ("time == 1", '"time" at character 1 of the condition cannot be compared'),
        ("(status == 1", "the ( at character 1 of the condition is not closed"),
        ("status == 1)", '")" at character 12 of the condition'),
        ("status == 1 status == 2", '"status" at character 13 of the condition'),
        ("path == 'a", '"\'a" at character 9 of the condition'),
        ("path == and", '"and" at character 9 of the condition is no value'),
        ("(" * 60 + "status == 1" + ")" * 60, "the condition is nested too deeply"),
        (" or ".join(["status == 1"] * 101), "the condition is too long"),
    ],
)
def test_a_condition_that_is_wrong_says_where(text, found):
    assert rejection(parse_condition, text).found == found


# ------------------------------------------------------------------------------------------------ destinations
@pytest.mark.parametrize(
    ("text", "destination"),
    [
        ("/var/log/a", LogDestination("file", path="/var/log/a")),
        ("./a", LogDestination("file", path="./a")),
        ("stderr", LogDestination("stream", stream="stderr")),
        ("syslog:/dev/log", LogDestination("datagrams", path="/dev/log", facility="local7", severity="info", tag="fastlb")),
        (
            "syslog:udp://[::1],facility=daemon,tag=x",
            LogDestination("datagrams", host="::1", port=514, facility="daemon", severity="info", tag="x"),
        ),
        (
            "syslog:udp://log.example:5514,severity=debug",
            LogDestination("datagrams", host="log.example", port=5514, facility="local7", severity="debug", tag="fastlb"),
        ),
    ],
)
def test_a_destination_is_read(text, destination):
    assert parse_destination(text) == destination


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", '"" is no destination'),
        ("access.log", '"access.log" is no destination'),
        ("/var/log/", '"/var/log/" is no destination'),
        ("udp://a:1", '"udp://a:1" is no destination'),
        ("syslog:", '"" is no address of a syslog server'),
        ("syslog:tcp://a:1", '"tcp://a:1" is no address of a syslog server'),
        ("syslog:udp://a:99999", '"udp://a:99999" is no address of a syslog server'),
        ("syslog:/dev/log,facility=local9", 'unknown facility "local9"'),
        ("syslog:/dev/log,severity=loud", 'unknown severity "loud"'),
        ("syslog:/dev/log,tag=a b", '"a b" is no tag'),
        ("syslog:/dev/log,colour=red", '"colour=red" is no setting of syslog'),
    ],
)
def test_a_destination_that_is_wrong_is_explained(text, found):
    assert rejection(parse_destination, text).found == found


# ------------------------------------------------------------------------------------------------ configurations
def errors(text):
    with pytest.raises(ConfigError) as caught:
        load_text(text, "f")
    return caught.value.lines()


def test_a_listener_inherits_or_has_its_own_or_none():
    other = '[[listeners]]\nname = "b"\nbind = ":81"\naccess_log = "off"\n'
    other += '[[listeners]]\nname = "c"\nbind = ":82"\naccess_log = ["stdout", "/a"]\n'
    config = load_text(f'[access_log]\nto = "/a"\n{LISTENER}{other}{REST}', "f").config
    assert [[str(log.to) for log in logs_of(config, listener)] for listener in config.listeners] == [["/a"], [], ["stdout", "/a"]]
    assert [str(destination) for destination in log_destinations(config)] == ["/a", "stdout"]
    assert build_log_plan(config)[1] == [0, None, 1]


def test_without_logs_there_is_no_plan():
    assert build_log_plan(load_text(LISTENER + REST, "f").config) == (b"", [None])


def test_mistakes_have_their_place():
    assert errors(f'[access_log]\nto = "stdout"\nsample = "10%"\n{LISTENER}{REST}') == [
        'f:3:10: found "10%"; a number without quotes, 0.0 … 1.0; did you mean "0.1"?'
    ]
    assert errors(f'[access_log]\nto = "stdout"\nfields = ["status"]\n{LISTENER}{REST}') == [
        'f:3:1: fields are for format "json"; another format names its fields in braces'
    ]
    assert errors(f'[access_log]\nto = "stdout"\nformat = "json"\nfields = ["status", "status"]\n{LISTENER}{REST}') == [
        "f:4:10: a field is listed a second time; a JSON object has each key once"
    ]
    assert errors(f"{LISTENER}access_log = true\n{REST}")[0].startswith('f:4:14: found true; "off", "inherit"')
    many = "'/a', " * 17
    assert errors(f"{LISTENER}access_log = [{many}]\n{REST}") == ["f:4:14: found 17 logs; at most 16"]
    assert errors(f"[[access_log]]\nto = '/a'\n[[access_log]]\nwhen = 'x == 1'\n{LISTENER}{REST}") == [
        'f:3:1: "to" is missing; to is a destination, such as "/var/log/fastlb/access.log"',
        'f:4:8: there is no field "x" (character 1 of the condition); fields are listed in docs/options/access_log.format.md; headers are '
        "request.NAME and response.NAME",
    ]


def test_a_listener_cannot_keep_any_number_of_headers():
    form = "".join(f"{{request.x-{number}}}" for number in range(60))
    (line,) = errors(f"[access_log]\nto = 'stdout'\nformat = '{form}'\n{LISTENER}{REST}")
    assert 'the logs of listener "web" name 60 different header fields; at most 48' in line
