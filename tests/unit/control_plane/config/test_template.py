"""What texts with values mean in each place, and what is wrong with those that cannot be used."""

import pytest

from fastlb.control_plane.config.errors import Rejected
from fastlb.control_plane.config.template import (
    Template,
    Value,
    parse_body,
    parse_key,
    parse_redirect,
    parse_request_value,
    parse_response_value,
    parse_target,
)


def rejected(parse: object, text: str) -> Rejected:
    assert callable(parse)
    with pytest.raises(Rejected) as caught:
        parse(text)
    return caught.value


def test_texts_and_values_are_told_apart() -> None:
    assert parse_request_value("a {client}{{{ header.X-Tag }}}").pieces == (
        "a ",
        Value("client", "controls"),
        "{",
        Value("header.x-tag", "controls"),
        "}",
    )
    assert parse_request_value("") == Template()
    assert not parse_request_value("")
    assert str(parse_key("{cookie.uid}")) == "{cookie.uid}"
    assert parse_key("{cookie.Uid}-{query.x}").names() == {"cookie.Uid", "query.x"}


@pytest.mark.parametrize(
    ("text", "found", "suggestion"),
    [
        ("{clinet}", 'there is no value "clinet"', "client"),
        ("{}", 'there is no value ""', None),
        ("{$remote_addr}", 'there is no value "$remote_addr"', "client"),
        ("{request_uri}", 'there is no value "request_uri"', "uri"),
        ("{http_user_agent}", 'there is no value "http_user_agent"', "header.user-agent"),
        ("{request.x-tag}", 'there is no value "request.x-tag"', "header.x-tag"),
        ("{arg_page}", 'there is no value "arg_page"', "query.page"),
        ("{cookie_uid}", 'there is no value "cookie_uid"', "cookie.uid"),
        ("{1}", 'there is no value "1"', "capture.1"),
        ("{Client}", 'there is no value "Client"', "client"),
        ("{header.}", '"" is no name of a header', None),
        ("{header.a b}", '"a b" is no name of a header', None),
        ("{capture.1x}", '"1x" is no name of a capture', None),
        ("{status}", "there is no status yet", None),
        ("{response.server}", "there is no response yet", None),
        ("a{", "the { at character 2 of the text is not closed", None),
        ("}", "the } at character 1 of the text closes nothing", None),
        ("a\nb", "character 2 of the value is a control character", None),
        ("{client}" * 65, "the text is too long", None),
        ("x" * 4097, "the text is too long", None),
    ],
)
def test_values_of_a_request_field_that_cannot_be(text: str, found: str, suggestion: str | None) -> None:
    problem = rejected(parse_request_value, text)
    assert (problem.found, problem.suggestion) == (found, suggestion)


def test_response_fields_know_the_response() -> None:
    assert parse_response_value("{status} {response.Server} {backend}").names() == {"status", "response.server", "backend"}
    assert rejected(parse_response_value, "{sent_http_x_a}").suggestion == "response.x-a"


@pytest.mark.parametrize("text", ["{pool}", "{backend}"])
def test_backends_are_not_known_before_one_is_picked(text: str) -> None:
    for parse in (parse_key, parse_body, parse_target, parse_redirect):
        assert rejected(parse, f"/{text}").found.endswith(f"{text[1:-1]} yet")


def test_key_needs_a_value() -> None:
    assert rejected(parse_key, "same").found == '"same" has no value'


def test_body_may_have_lines_but_no_other_control_characters() -> None:
    assert parse_body("a\r\n\tb").pieces == ("a\r\n\tb",)
    assert rejected(parse_body, "a\0").found == '"a\\u0000" has a control character'


# ---------------------------------------------------------------------------------------------------------- targets
@pytest.mark.parametrize(
    ("text", "encodings"),
    [
        ("/a{path}", ["path"]),
        ("{uri}", ["nothing"]),
        ("{path}?{query}", ["path", "nothing"]),
        ("/{capture.1}/{header.x}?y={query.y}&z={path}&u={uri}", ["path", "path", "component", "component", "component"]),
    ],
)
def test_values_are_encoded_by_where_they_stand(text: str, encodings: list[str]) -> None:
    assert [piece.encoding for piece in parse_target(text).pieces if isinstance(piece, Value)] == encodings
    assert [piece.encoding for piece in parse_redirect(text).pieces if isinstance(piece, Value)] == encodings


@pytest.mark.parametrize(
    ("text", "found", "suggestion"),
    [
        ("new", '"new" is not a target', "/new"),
        ("{query.to}", '"{query.to}" is not a target', None),
        ("https://a/", '"https://a/" is not a target', None),
        ("/a#b", '"/a#b" has a #', None),
        ("/a b", '"/a b" holds " "', None),
        ("/é", '"/é" holds "é"', None),
        ('/"', '"/\\"" holds "\\""', None),
    ],
)
def test_targets_that_cannot_be(text: str, found: str, suggestion: str | None) -> None:
    problem = rejected(parse_target, text)
    assert (problem.found, problem.suggestion) == (found, suggestion)


# ---------------------------------------------------------------------------------------------------------- redirects
@pytest.mark.parametrize(
    "text",
    [
        "/new",
        "/new#part",
        "{path}",
        "https://shop.example",
        "https://shop.example/",
        "http://{host}:8080{uri}",
        "{scheme}://www.{http_host}{uri}",
        "https://shop.example?q={query.q}",
        "https://{capture.1}.shop.example/x",
        "https://{header.x-tenant}.shop.example:8443{path}",
        "https://shop.example/{capture.1}",
    ],
)
def test_redirects_that_lead_where_the_configuration_says(text: str) -> None:
    pieces = parse_redirect(text).pieces
    assert "".join(piece if isinstance(piece, str) else f"{{{piece.name}}}" for piece in pieces) == text


@pytest.mark.parametrize(
    "text",
    [
        "https://{query.to}",
        "https://shop.example{capture.1}",
        "https://shop.example{header.x}/",
        "https://{capture.1}/",
        "https://www.{cookie.x}",
        "https://{capture.1}{uri}",
        "https://{capture.1}.com/",
        "https://{capture.1}:80/",
        "https://{capture.1}x.example.com/",
        "https://{client}",
    ],
)
def test_redirects_whose_host_a_client_could_choose_are_refused(text: str) -> None:
    assert "a client could choose the host" in rejected(parse_redirect, text).found


def test_values_in_a_host_cannot_leave_it() -> None:
    assert parse_redirect("https://{capture.1}.shop.example/").pieces[1] == Value("capture.1", "component")


@pytest.mark.parametrize(
    ("text", "found", "suggestion"),
    [
        ("//evil.example", '"//evil.example" has no scheme', "https://evil.example"),
        ("shop.example/x", '"shop.example/x" is neither a path nor a URL', "https://shop.example/x"),
        ("ftp://shop.example", '"ftp://shop.example" is neither a path nor a URL', None),
        ("{query.to}", '"{query.to}" is neither a path nor a URL', None),
        ("javascript:x", '"javascript:x" is neither a path nor a URL', None),
        ("https://", '"https://" has no host', None),
        ("https:///x", '"https:///x" has no host', None),
        ("{scheme}", '"{scheme}" is neither a path nor a URL', None),
        ("{scheme}{uri}", '"{scheme}{uri}" is neither a path nor a URL', None),
    ],
)
def test_redirects_that_cannot_be(text: str, found: str, suggestion: str | None) -> None:
    problem = rejected(parse_redirect, text)
    assert (problem.found, problem.suggestion) == (found, suggestion)
