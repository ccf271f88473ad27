"""Requests that only a foreign page sends are refused."""

import pytest
from starlette.requests import Request

from rlhf_forge.serve.errors import ApiError
from rlhf_forge.serve.trust import require_trusted


def request(method: str = "POST", **headers: str) -> Request:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    given = {"host": "127.0.0.1:8000", "content-type": "application/json"} | given
    raw = [(name.encode(), value.encode()) for name, value in given.items()]
    return Request({"type": "http", "method": method, "path": "/", "headers": raw})


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "localhost", "[::1]:8000"])
def test_local_names_are_answered(host: str) -> None:
    require_trusted(request(host=host), "127.0.0.1")


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:8000", "", "localhost.", "[::1"]
)
def test_a_foreign_name_for_this_machine_is_refused(host: str) -> None:
    with pytest.raises(ApiError) as caught:
        require_trusted(request(host=host), "127.0.0.1")
    assert caught.value.status == 403


def test_a_server_for_other_machines_answers_to_any_name() -> None:
    require_trusted(request(host="box.lan:8000"), "0.0.0.0")


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9000", "http://[::1"]
)
@pytest.mark.parametrize("bound_to", ["127.0.0.1", "0.0.0.0"])
def test_a_page_of_another_site_is_refused(origin: str, bound_to: str) -> None:
    with pytest.raises(ApiError) as caught:
        require_trusted(request(origin=origin), bound_to)
    assert caught.value.status == 403


def test_a_page_of_the_server_itself_is_answered() -> None:
    require_trusted(request(origin="http://127.0.0.1:8000"), "127.0.0.1")


@pytest.mark.parametrize("kind", ["text/plain", "", "application/x-www-form-urlencoded"])
def test_a_body_that_a_form_could_send_is_refused(kind: str) -> None:
    with pytest.raises(ApiError) as caught:
        require_trusted(request(content_type=kind), "127.0.0.1")
    assert caught.value.status == 415


def test_json_with_a_charset_is_json_and_reading_needs_no_body() -> None:
    require_trusted(request(content_type="application/json; charset=utf-8"), "127.0.0.1")
    require_trusted(request(method="GET", content_type=""), "127.0.0.1")
