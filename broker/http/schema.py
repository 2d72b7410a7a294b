"""Builds the JSON Schema and OpenAPI 3.1 objects for the declarations of routes."""

from collections.abc import Mapping
from typing import Any

JSON = dict[str, Any]
Parameters = Mapping[str, tuple[str, JSON]]
"""Optional parameters by name, each with a description and a schema."""

YEAR = 366 * 86400
TEXT: JSON = {"type": "string"}
TEXT_OR_NULL: JSON = {"type": ["string", "null"]}
PRINTABLE_OR_NULL: JSON = {"type": ["string", "null"], "maxLength": 4096, "description": "Printable"}
FLAG_OR_NULL: JSON = {"type": ["boolean", "null"]}
TEXTS: JSON = {"type": "array", "items": TEXT}
MOMENT: JSON = {"type": "string", "format": "date-time"}
MOMENT_OR_NULL: JSON = {"type": ["string", "null"], "format": "date-time"}
COUNT: JSON = {"type": "integer", "minimum": 0}
LIMIT: JSON = {"type": "integer", "minimum": 1, "maximum": 1000}
NAME: JSON = {"type": "string", "pattern": r"^[a-z0-9][a-z0-9._-]{0,127}$"}


def ref(name: str) -> JSON:
    """Return a reference to a component."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(properties: JSON, *optional: str, **more: Any) -> JSON:
    """Return the schema of an object with exactly these members; all but the `optional` are required."""
    required = [name for name in properties if name not in optional]
    return {
        "type": "object",
        "properties": properties,
        **({"required": required} if required else {}),
        "additionalProperties": False,
        **more,
    }


def shape(members: Mapping[str, tuple[JSON, object]], *optional: str) -> tuple[JSON, JSON]:
    """Return the schema and the example of an object from those of its members."""
    return (
        record({name: schema for name, (schema, _) in members.items()}, *optional),
        {name: example for name, (_, example) in members.items() if name not in optional},
    )


def answers_json(description: str, schema: JSON, example: Any, *, status: str = "200") -> dict[str, JSON]:
    """Return a JSON answer by its status."""
    content = {"application/json": {"schema": schema, "example": example}}
    return {status: {"description": description, "content": content}}


def answers_text(description: str, content_type: str, *statuses: str) -> dict[str, JSON]:
    """Return the same text answer for each of the statuses, by default 200."""
    text = {"description": description, "content": {content_type: {"schema": TEXT}}}
    return dict.fromkeys(statuses or ("200",), text)


def answers_page(description: str, *statuses: str) -> dict[str, JSON]:
    """Return an HTML answer by status."""
    return answers_text(description, "text/html", *statuses)


def redirect(description: str, status: str = "303") -> dict[str, JSON]:
    """Return a redirect by its status."""
    return {status: {"description": description, "headers": {"Location": {"required": True, "schema": TEXT}}}}


def nothing(description: str, *, status: str = "204") -> dict[str, JSON]:
    """Return an answer without a body by its status."""
    return {status: {"description": description}}


def json_body(
    members: JSON, example: JSON | None = None, *optional: str, required: bool = True, **more: Any
) -> JSON:
    """Return a JSON body. Members that may be null or are named as `optional` may be absent."""
    nullable = [name for name, schema in members.items() if "null" in schema.get("type", "")]
    content = {"schema": record(members, *nullable, *optional, **more), "example": example}
    return {"required": required, "content": {"application/json": content}}


def form(schema: JSON) -> JSON:
    """Return a form body."""
    return {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": schema}}}


def form_or_json(schema: JSON, example: JSON) -> JSON:
    """Return a body that may be a form or JSON."""
    either = {"schema": schema, "example": example}
    return {
        "required": True,
        "content": {"application/x-www-form-urlencoded": either, "application/json": either},
    }


WRONG = answers_page("An error page", "400", "404", "409", "410", "429", "500", "502", "503")
"""The error pages of routes for browsers."""
