"""Check that the model or coding agent is available, without a paid call."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import requests

from agent.doctor.check import Check
from agent.errors import PreconditionError, UsageError, in_one_line
from agent.format import one_line
from agent.proposers.agent.presets import PRESETS, check_available
from agent.proposers.choose import ProposerConfig
from agent.proposers.model import bounded_http
from agent.proposers.model.servers import OWN_KEY, SERVERS, ModelSpec, headers_of, key_variable_of, parse_model
from agent.system.invocation import typed

SECONDS = 5.0
PATH_OF_CALL = re.compile(r"/(?:chat/completions|completions|responses|messages|models)$")
SHOWN_MODELS, LONGEST_NAME = 5, 100
START = {"ollama": "ollama serve", "lmstudio": "lms server start", "mlx": "mlx_lm.server --model {name}"}
INSTALL = {
    "claude": "npm install -g @anthropic-ai/claude-code",
    "codex": "npm install -g @openai/codex",
    "gemini": "npm install -g @google/gemini-cli",
    "opencode": "npm install -g opencode-ai",
    "aider": "uv tool install aider-chat",
    "mini": "uv tool install mini-swe-agent",
}


def checks(consult: ProposerConfig) -> Iterator[Check]:
    """Yield a check for the model and the agent, or one for the built-in search if neither is named."""
    if consult.model is not None:
        yield _model(consult.model)
    if consult.agent is not None:
        yield _agent(consult.agent)
    if consult.model is None and consult.agent is None:
        yield Check("proposer", "ok", "the built-in search, which has no requirements; --model and --agent are not set")


def _agent(name: str) -> Check:
    if name not in PRESETS:
        return Check("agent", "broken", f"unknown agent {name!r}; choose from {', '.join(PRESETS)}")
    missing = check_available(PRESETS[name])
    if missing:
        return Check("agent", "broken", missing, INSTALL[name])
    return Check("agent", "ok", f"{name} is installed; its sign-in is checked at the first proposal")


def _model(text: str) -> Check:
    try:
        model = parse_model(text)
    except UsageError as error:
        return Check("model", "broken", in_one_line(error))
    except PreconditionError as error:
        return Check("model", "broken", str(error), f"export {key_variable_of(text)}=...")
    try:
        with _lists_of(model) as answer:
            return _answered(model, answer)
    except (requests.RequestException, OSError, ValueError):
        start = START.get(model.scheme, f"curl -sS {shlex.quote(_list_of(model))}").format(name=shlex.quote(model.name))
        return Check("model", "broken", f"{model.label} is unreachable at {model.url}", start)


def _list_of(model: ModelSpec) -> str:
    return f"{model.url}/v1/models" if model.format == "anthropic" else f"{model.url}/models"


def _lists_of(model: ModelSpec) -> AbstractContextManager[requests.Response]:
    """Ask for the list of models."""
    return bounded_http.exchange(
        "GET", _list_of(model), headers=headers_of(model), silence=SECONDS, seconds=3 * SECONDS
    )


def _answered(model: ModelSpec, answer: requests.Response) -> Check:
    if answer.status_code in (401, 403):
        variable, status = key_variable_of(model.scheme), f"(HTTP {answer.status_code})"
        if not variable:  # this scheme sends no key, whatever is exported
            own = typed(f"doctor --model {shlex.quote(f'{model.url} {model.name}')}")
            message = f"{model.url} requires a key {status}, which `{model.scheme}:` does not send"
            return Check("model", "broken", message, f"export {OWN_KEY}=...; {own}")
        return Check("model", "broken", f"{model.url} rejected the key {status}", f"export {variable}=...")
    if answer.status_code == 404:
        return _not_found(model)
    if answer.status_code != 200:
        message = f"{model.url} is reachable, but does not list its models (HTTP {answer.status_code})"
        return Check("model", "ok" if answer.status_code in (405, 501) else "warning", message)
    return _listed(model, answer)


def _not_found(model: ModelSpec) -> Check:
    """Return the check for an address without a list of models.

    If another has one, this one probably lacks `/v1`, or has more than that. Otherwise it may be a server without one.
    """
    for url in _other_addresses(model):
        if not _lists_models(replace(model, url=url)):
            continue
        fix = f"export {SERVERS[model.scheme][2]}={shlex.quote(url)}" if model.scheme in SERVERS else None
        own = typed(f"doctor --model {shlex.quote(f'{url} {model.name}')}")
        message = f"{_list_of(model)} is not found (HTTP 404): the address of the models is {url}"
        return Check("model", "warning", message, fix or own)
    message = f"{model.url} is reachable, but does not list its models: {_list_of(model)} is not found (HTTP 404)"
    return Check("model", "ok", message)


def _other_addresses(model: ModelSpec) -> list[str]:
    """Return the address with and without `/v1`, and without the path of a call, but not as it is."""
    base = PATH_OF_CALL.sub("", model.url)
    bare = base.removesuffix("/v1")
    found = [bare] if model.format == "anthropic" else [base, f"{bare}/v1", bare]
    return [url for url in dict.fromkeys(found) if url != model.url]


def _lists_models(model: ModelSpec) -> bool:
    try:
        with _lists_of(model) as answer:
            return answer.status_code == 200 and isinstance(_data(answer), list)
    except (requests.RequestException, OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _data(answer: requests.Response) -> Any:
    return json.loads(b"".join(bounded_http.body(answer)))["data"]


def _listed(model: ModelSpec, answer: requests.Response) -> Check:
    """Check that the server lists the model. If not, only warn: servers name models differently."""
    try:
        names = [one_line(str(each["id"]))[:LONGEST_NAME] for each in _data(answer)]
    except (ValueError, KeyError, TypeError, RecursionError):
        return Check("model", "ok", f"{model.url} is reachable, with its list of models in an unknown format")
    if not names or any(name == model.name or name.startswith(f"{model.name}:") for name in names):
        return Check("model", "ok", f"{model.label} is available at {model.url}")
    shown = ", ".join(names[:SHOWN_MODELS]) + (" and others" if len(names) > SHOWN_MODELS else "")
    pull = f"ollama pull {shlex.quote(model.name)}" if model.scheme == "ollama" else None
    return Check("model", "warning", f"{model.url} does not list {model.name}, only {shown}", pull)
