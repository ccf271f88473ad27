"""Requests that only a foreign page sends are refused."""

import pytest
from starlette.requests import Request

from rlhf_forge.serve.errors import ApiError
from rlhf_forge.serve.settings import Settings
from rlhf_forge.serve.trust import require_key, require_trusted

HERE = Settings()
ANYWHERE = Settings(host="0.0.0.0")


def request(method: str = "POST", **headers: str) -> Request:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    given = {"host": "127.0.0.1:8000", "content-type": "application/json"} | given
    raw = [(name.encode(), value.encode("latin-1")) for name, value in given.items()]
    return Request({"type": "http", "method": method, "path": "/", "headers": raw})


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "localhost", "[::1]:8000"])
def test_local_names_are_answered(host: str) -> None:
    require_trusted(request(host=host), HERE)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:8000", "", "localhost.", "[::1"]
)
def test_a_foreign_name_for_this_machine_is_refused(host: str) -> None:
    with pytest.raises(ApiError) as caught:
        require_trusted(request(host=host), HERE)
    assert caught.value.status == 403


def test_a_server_for_other_machines_answers_to_any_name() -> None:
    require_trusted(request(host="box.lan:8000"), ANYWHERE)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9000", "http://[::1"]
)
@pytest.mark.parametrize("settings", [HERE, ANYWHERE], ids=["here", "anywhere"])
def test_a_page_of_another_site_is_refused(origin: str, settings: Settings) -> None:
    with pytest.raises(ApiError) as caught:
        require_trusted(request(origin=origin), settings)
    assert caught.value.status == 403


def test_a_page_of_the_server_itself_is_answered() -> None:
    require_trusted(request(origin="http://127.0.0.1:8000"), HERE)


@pytest.mark.parametrize("kind", ["text/plain", "", "application/x-www-form-urlencoded"])
def test_a_body_that_a_form_could_send_is_refused(kind: str) -> None:
    with pytest.raises(ApiError) as caught:
        require_trusted(request(content_type=kind), HERE)
    assert caught.value.status == 415


def test_json_with_a_charset_is_json_and_reading_needs_no_body() -> None:
    require_trusted(request(content_type="application/json; charset=utf-8"), HERE)
    require_trusted(request(method="GET", content_type=""), HERE)


def test_a_proxy_may_have_a_name_of_its_own() -> None:
    require_trusted(request(host="chat.example"), Settings(hosts=["chat.example"]))
    with pytest.raises(ApiError):
        require_trusted(request(host="other.example"), Settings(hosts=["chat.example"]))


@pytest.mark.parametrize("given", ["Bearer one", "bearer two", "BEARER  two "])
def test_any_of_the_keys_opens(given: str) -> None:
    require_key(request(authorization=given), [b"one", b"two"])


@pytest.mark.parametrize("given", ["", "one", "Bearer", "Bearer three", "Basic one", "Bearer ö"])
def test_without_a_key_nothing_opens(given: str) -> None:
    with pytest.raises(ApiError) as caught:
        require_key(request(authorization=given), [b"one", b"two"])
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    assert caught.value.response().headers["WWW-Authenticate"] == "Bearer"


def test_where_no_key_is_set_any_will_do() -> None:
    require_key(request(), [])
    require_key(request(authorization="Bearer any"), [])
