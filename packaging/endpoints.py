"""Gives the generated parts of docs/api.md: routes, objects, errors, limits and headers, from their declarations."""

import asyncio
import inspect
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web

from broker.app import open_broker
from broker.app.listeners import OPERATORS, OTHER_FILES, SERVICES, STRANGERS
from broker.config import load
from broker.http.bodies import SHAPES
from broker.http.edge import HTTPS_ONLY, SAFE, SERVER
from broker.http.openapi import EVERYWHERE, KINDS, PATH_PARAMETERS, PROBLEM, WITH_BODY, WITH_CALLER
from broker.http.operations import Operation, operation_of
from broker.observe import logs
from broker.tokens.flight import QUEUE

Row = tuple[str, ...]
CONFIG = "[sandbox]\nenabled = true\n"
"""The sandbox turns on `[login]` and `[plugin]`, so every route exists."""
ELSEWHERE = {
    "reason": "a reason of [troubleshooting.md](troubleshooting.md#each-reason)",
    "code": "a code of [Errors](#errors)",
}
"""Members whose values are listed elsewhere."""


def table(*rows: Row) -> str:
    """Return a Markdown table; the first row is its head."""
    head, *lines = ("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)
    return "\n".join((head, "|---" * len(rows[0]) + "|", *lines)) + "\n"


async def declared() -> dict[str, list[tuple[Operation, str]]]:
    """Return the declarations of each listener's routes, with what each route does, from an opened broker."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.toml"
        config.write_text(CONFIG)
        settings = load(config, environ={})
        logs.configure(replace(settings.log, level="error"))
        async with open_broker(settings) as broker:
            return {
                name: list(operations(getattr(broker.listeners, name)))
                for name in ("internal", "public", "admin")
            }


def operations(application: web.Application) -> Iterator[tuple[Operation, str]]:
    """Yield the declarations of an application's routes. The handler's docstring stands in for a summary."""
    for route in application.router.routes():
        path = "" if route.resource is None else route.resource.canonical
        if route.method != "HEAD" and (one := operation_of(route.handler, path)) is not None:
            yield one, one.summary or " ".join((inspect.getdoc(route.handler) or "").split())


def kind(schema: Mapping[str, Any]) -> str:
    """Return what a JSON Schema permits, in words."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return f"[{name}](#{name.lower()})" if name in SHAPES else "the name of a configured provider"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    types = schema.get("type", "object")
    text = " or ".join([types] if isinstance(types, str) else types)
    if schema.get("items"):
        text = f"array of {kind(schema['items'])}"
    if schema.get("format") == "date-time":
        text = text.replace("string", "time (RFC 3339)")
    least, most = schema.get("minimum"), schema.get("maximum")
    if most is not None:
        text += f", {least or 0:,} to {most:,}"
    elif least is not None:
        text += f", at least {least}"
    for name, form in (("maxLength", "at most {} characters"), ("pattern", "`{}`")):
        text += f", {form.format(schema[name])}" if name in schema else ""
    return text


def parameters(one: Operation) -> Iterator[Row]:
    """Yield a row for each parameter in the query, the headers and the body."""
    for place, options in (("query", one.query), ("header", one.headers)):
        yield from ((f"`{name}`", place, kind(schema), told) for name, (told, schema) in options.items())
    if one.body is not None:
        types = one.body["content"]
        place = " or ".join("JSON" if name.endswith("json") else "form" for name in types)
        schema = next(iter(types.values()))["schema"]
        for name, member in schema["properties"].items():
            needed = "required" if name in schema.get("required", ()) and one.body["required"] else ""
            told = ". ".join(filter(None, (needed, member.get("description", ""))))
            yield f"`{name}`", place, kind(member), told


def answer(described: Mapping[str, Any]) -> str:
    """Return the text about an answer, behind its status."""
    text = str(described["description"]).rstrip(".")
    forms = []
    for content_type, content in described.get("content", {}).items():
        schema = content["schema"]
        if "$ref" in schema:
            forms.append(f"`{content_type}`: {kind(schema)}")
        elif members := schema.get("properties"):
            told = ", ".join(f"`{member}` ({kind(one)})" for member, one in members.items())
            forms.append(f"`{content_type}`: {told}")
        else:
            forms.append(f"`{content_type}`")
    headers = [f"the header `{name}`" for name in described.get("headers", {})]
    return text + "".join(f"; {one}" for one in (*forms, *headers))


def section(one: Operation, told: str, rank: str) -> str:
    """Return a route's section."""
    lines = [f"{rank} {one.method} {one.path}", f"{told.rstrip('.')}."]
    if one.permission is not None:
        lines.append(f"Permission: `{one.permission}`.")
    if rows := list(parameters(one)):
        lines.append(table(("parameter", "in", "value", "meaning"), *rows).rstrip())
    if one.body is not None:
        content = next(iter(one.body["content"].values()))
        lines += [f"```json\n{json.dumps(content['example'])}\n```"] if content.get("example") else []
    alike: dict[str, list[str]] = {}
    for status, described in sorted(one.answers.items()):
        alike.setdefault(answer(described), []).append(f"`{status}`")
    if alike:
        lines.append("\n".join(f"- {', '.join(found)}: {text}" for text, found in alike.items()))
    if one.problems:
        lines.append(f"Errors: {codes(one.problems)}.")
    return "\n\n".join(lines)


def codes(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def routes(found: list[tuple[Operation, str]], rank: str = "###", *, has_permission: bool = True) -> str:
    """Return a listener's table of routes and the sections of those that take or answer something."""
    rows: list[Row] = []
    sections: list[str] = []
    described: list[Operation] = []
    for one, told in found:
        name, text = f"`{one.method} {one.path}`", told.rstrip(".")
        rows.append((name, f"`{one.permission}`" if one.permission else "none", text))
        is_page = one.path == "/" or one.path.startswith("/dashboard/")
        # The same under a second path needs no second section.
        if (bare := replace(one, path="", summary="")) in described:
            continue
        if one.query or one.headers or one.problems or (one.body and not is_page):
            described.append(bare)
            sections.append(section(one, told, rank))
    if has_permission:
        head: Row = ("route", "permission", "what it does")
    else:
        head, rows = ("route", "what it does"), [(name, text) for name, _, text in rows]
    return table(head, *rows) + "".join(f"\n{one}\n" for one in sections)


def objects() -> str:
    """Return a section for each object that several answers have."""
    sections = []
    for name, (shape, example) in (*SHAPES.items(), ("Problem", (PROBLEM, None))):
        rows = [
            (
                f"`{member}`",
                ELSEWHERE.get(member) or kind(one),
                ". ".join(
                    filter(
                        None,
                        (
                            "Deprecated" if one.get("deprecated") else "",
                            "" if member in shape["required"] else "Not always there",
                            one.get("description", "").rstrip("."),
                        ),
                    )
                ),
            )
            for member, one in shape["properties"].items()
        ]
        rendered = table(("member", "value", "meaning"), *rows).rstrip()
        lines = [f"### {name}", shape.get("description", ""), rendered]
        lines += [f"```json\n{json.dumps(example, indent=1)}\n```"] if example else []
        sections.append("\n\n".join(filter(None, lines)))
    return "\n\n".join(sections) + "\n"


def errors() -> str:
    """Return the table of error codes."""
    rows = []
    for code, error in KINDS.items():
        told = " ".join((inspect.getdoc(error) or "").partition("\n\n")[0].split())
        rows.append((f"`{code}`", str(error.status), error.title, told))
    common = (
        f"Every route may answer {codes(EVERYWHERE)}; one that needs a caller also {codes(WITH_CALLER)}; one with a"
        f" body also {codes(WITH_BODY)}. The sections above name the others."
    )
    return f"{table(('code', 'status', 'title', 'what has happened, and what a caller does'), *rows)}\n{common}\n"


def limits() -> str:
    """Return the table of limits, in numbers of the program."""
    quarter = "at most a quarter of the open files that the machine gives"
    too_few = f"fewer if the machine gives fewer than {SERVICES.connections + OTHER_FILES:,} open files"
    malformed = "400 `invalid_request`"
    return table(
        ("limit", "value", "what happens beyond it"),
        (
            "connections of one address, public listener",
            f"{STRANGERS.per_peer}",
            "429 `rate_limited`; an IPv6 /64 counts as one address",
        ),
        ("connections, public listener", f"{STRANGERS.connections:,}", f"503 `overloaded`; {quarter}"),
        ("connections, internal listener", f"{SERVICES.connections:,}", f"503 `overloaded`; {too_few}"),
        ("connections, admin socket", f"{OPERATORS.connections:,}", f"503 `overloaded`; {quarter}"),
        ("time for a header, and between requests", f"{SERVICES.idle:g} s", "the connection is closed"),
        ("time for a body", f"{SERVICES.body_seconds:g} s", malformed),
        ("body, after decompression", f"{SERVICES.body:,} bytes", "413 `too_large`"),
        ("request line, and each header", f"{SERVICES.line:,} bytes", malformed),
        ("headers", f"{SERVICES.headers}", malformed),
        (
            "requests that begin a renewal and wait for it",
            f"{QUEUE}",
            "503 `overloaded`; a request that joins a renewal under way does not count, and valid tokens are still"
            " answered",
        ),
    )


def headers(found: Mapping[str, list[tuple[Operation, str]]]) -> str:
    """Return the tables of request headers and of answer headers."""
    asked = {
        name: (told, one)
        for ones in found.values()
        for one, _ in ones
        for name, (told, _) in one.headers.items()
    }
    answered = {
        "X-Request-Id": "The id of the request: in the log, in the audit and in errors.",
        "Retry-After": "Seconds to wait. Every 429 and 503 has it.",
        "WWW-Authenticate": "`Bearer`, with every 401.",
        "Allow": "The methods of the path, with every 405.",
        "ETag": "The generation in quotes, with a token.",
        "Server": f"`{SERVER}`",
        **{name: f"`{value}`" for name, value in SAFE.items()},
        **{name: f"`{value}`, on the public listener with https" for name, value in HTTPS_ONLY.items()},
    }
    requests = table(
        ("request header", "meaning"),
        ("`Authorization`", "`Bearer` and a key or a JWT; the scheme's case does not matter."),
        (
            "`X-Request-Id`",
            "8 to 64 characters of `A-Za-z0-9._-`. The answer has the same; another text is replaced by a new id.",
        ),
        *((f"`{name}`", f"`{one.method} {one.path}`: {told}") for name, (told, one) in asked.items()),
    )
    return f"{requests}\n{table(('answer header', 'value'), *((f'`{k}`', v) for k, v in answered.items()))}"


def api() -> dict[str, str]:
    """Return the parts of docs/api.md."""
    found = asyncio.run(declared())
    dashboard = [
        (one, told)
        for one, told in found["internal"]
        if one.path == "/" or one.path.startswith("/dashboard/")
    ]
    shared = {(one.method, one.path) for one, _ in found["internal"]}
    return {
        "internal": routes([pair for pair in found["internal"] if pair not in dashboard]),
        "dashboard": routes(dashboard, "####", has_permission=False),
        "public": routes(found["public"], has_permission=False),
        "admin": routes([pair for pair in found["admin"] if (pair[0].method, pair[0].path) not in shared]),
        "names": table(
            ("path parameter", "value", "meaning"),
            *((f"`{name}`", kind(schema), told) for name, (told, schema, _) in PATH_PARAMETERS.items()),
        ),
        "objects": objects(),
        "errors": errors(),
        "limits": limits(),
        "headers": headers(found),
    }
