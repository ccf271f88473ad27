"""Every error of the server in the shape OpenAI's clients read."""

from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

Body = TypeVar("Body", bound=BaseModel)
KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
# What pydantic calls a body that is not JSON at all.
BROKEN = {"json_invalid", "model_type", "model_attributes_type"}


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        message: One line for a person.
        code: One word for a program.
        param: The field at fault; None for none in particular.
        retry_after: Seconds after which to try again; None where that is of no use.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """The JSON to answer."""
        kind = KINDS.get(self.status, "invalid_request_error")
        if self.status >= 500:
            kind = "server_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        """The whole answer."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


def parsed(model: type[Body], body: bytes) -> Body:
    """``body`` as a ``model``.

    Raises:
        ApiError: Naming the first field at fault.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _invalid(error) from None


def _invalid(error: ValidationError) -> ApiError:
    first = min(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    param = str(first["loc"][0]) if first["loc"] else None
    if first["type"] == "extra_forbidden":
        where = ".".join(str(part) for part in first["loc"])
        return ApiError(400, f"{where} is not supported", code="unsupported_parameter", param=param)
    if first["type"] in BROKEN and param is None:
        return ApiError(400, f"the body is not a JSON object: {first['msg']}", code="invalid_json")
    message = first["msg"].removeprefix("Value error, ")
    where = "" if param is None else f"{param}: "
    return ApiError(400, f"{where}{message}", code="invalid_value", param=param)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of ``app``, its framework's own included, in OpenAI's shape."""

    async def api_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return error.response()

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        message = f"{request.method} {request.url.path}: {error.detail}"
        code = str(error.detail).lower().replace(" ", "_")
        return await api_error(request, ApiError(error.status_code, message, code=code))

    async def fault(request: Request, _: Exception) -> JSONResponse:
        return await api_error(
            request, ApiError(500, "the server failed; see its log", code="internal_error")
        )

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, fault)
