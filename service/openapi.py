"""What `/openapi.json` says beyond what FastAPI can see: keys, bodies read by hand, every error.

A route's signature gives its parameters and what it answers when all is well. That it asks for a
key, which document it reads, and which problems (RFC 9457) may come instead is added here, so that
a client made from the description knows them.
"""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

PROBLEM_JSON = "application/problem+json"
NDJSON = "application/x-ndjson"
TOO_LARGE = HTTPStatus(413)  # its name differs between Python versions
OPEN = ("/livez", "/readyz")  #: paths that ask for no key
REF = "#/components/schemas/{model}"
KEY = "key"

Responses = dict[int | str, dict[str, Any]]


class ProblemView(BaseModel):
    """Why a request was not carried out (RFC 9457). Some say more, in members of their own."""

    model_config = ConfigDict(title="Problem", extra="allow")

    type: str = Field(description="A URN that names the kind of problem.")
    title: str
    status: int
    detail: str = Field(description="What is wrong and what to do, in a sentence.")


def problems(*statuses: HTTPStatus, also: type[BaseModel] | None = None) -> Responses:
    """What a route may answer instead; `also` says what may stand beside a problem's members."""
    schema: dict[str, Any] = {"$ref": REF.format(model="Problem")}
    if also is not None:
        more = {"$ref": REF.format(model=also.__name__)}
        schema = {"anyOf": [{"allOf": [schema, more]}, schema]}
    return {
        int(status): {"description": status.phrase, "content": {PROBLEM_JSON: {"schema": schema}}}
        for status in statuses
    }


def body_of(model: type[BaseModel], *, at_most: int | None = None) -> dict[str, Any]:
    """How a JSON body is described that is read by hand: one document, or a list of so many."""
    schema = model.model_json_schema(ref_template=REF)
    if at_most is not None:
        defs = schema.pop("$defs", {})
        several = {"type": "array", "items": schema, "minItems": 1, "maxItems": at_most}
        schema = {"anyOf": [schema, several], "$defs": defs}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def lines_of(model: type[BaseModel]) -> dict[str, Any]:
    """How a stream is described, with a document a line."""
    schema = {"description": f"A line for each: {model.__name__} as JSON."}
    return {"requestBody": {"required": True, "content": {NDJSON: {"schema": schema}}}}


class Described(FastAPI):
    """An application that describes itself whole."""

    def openapi(self) -> dict[str, Any]:
        """The description, made when it is first asked for."""
        if self.openapi_schema is not None:
            return self.openapi_schema
        schema = super().openapi()
        parts = schema.setdefault("components", {})
        parts["securitySchemes"] = {
            KEY: {"type": "http", "scheme": "bearer", "description": "An API key: lw_..."}
        }
        models = parts.setdefault("schemas", {})
        models["Problem"] = ProblemView.model_json_schema()
        for path, methods in schema["paths"].items():
            for operation in methods.values():
                _complete(operation, models, path)
        for unused in ("HTTPValidationError", "ValidationError"):
            models.pop(unused, None)  # FastAPI's own errors, which we do not send
        return schema


def _complete(operation: dict[str, Any], models: dict[str, Any], path: str) -> None:
    """Add what all of its kind may answer, and move a body's parts to where they are looked for."""
    statuses = [HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.SERVICE_UNAVAILABLE]
    if path not in OPEN:
        operation["security"] = [{KEY: []}]
        statuses += [HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN]
    if "{" in path:
        statuses.append(HTTPStatus.NOT_FOUND)
    if "parameters" in operation:
        statuses.append(HTTPStatus.UNPROCESSABLE_ENTITY)
        operation["responses"].pop("422", None)  # FastAPI's own
    if "requestBody" in operation:
        statuses += [
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.REQUEST_TIMEOUT,
            TOO_LARGE,
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            HTTPStatus.UNPROCESSABLE_ENTITY,
        ]
        for content in operation["requestBody"]["content"].values():
            models.update(content["schema"].pop("$defs", {}))
    for status, response in problems(*statuses).items():
        operation["responses"].setdefault(str(status), response)
