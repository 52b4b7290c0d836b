"""Check that the model or coding agent is available, without a paid call."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

import requests

from agent.doctor.check import Check
from agent.errors import PreconditionError, UsageError, in_one_line
from agent.format import one_line
from agent.proposers.agent.presets import PRESETS, check_available
from agent.proposers.choose import ProposerConfig
from agent.proposers.model import bounded_http
from agent.proposers.model.servers import OWN_KEY, ModelSpec, headers_of, key_variable_of, parse_model
from agent.system.invocation import typed

SECONDS = 5.0
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
    address = f"{model.url}/v1/models" if model.format == "anthropic" else f"{model.url}/models"
    try:
        with bounded_http.exchange(
            "GET", address, headers=headers_of(model), silence=SECONDS, seconds=3 * SECONDS
        ) as answer:
            return _answered(model, answer)
    except (requests.RequestException, OSError, ValueError):
        start = START.get(model.scheme, f"curl -sS {shlex.quote(address)}").format(name=shlex.quote(model.name))
        return Check("model", "broken", f"{model.label} is unreachable at {model.url}", start)


def _answered(model: ModelSpec, answer: requests.Response) -> Check:
    if answer.status_code in (401, 403):
        variable, status = key_variable_of(model.scheme), f"(HTTP {answer.status_code})"
        if not variable:  # this scheme sends no key, whatever is exported
            own = typed(f"doctor --model {shlex.quote(f'{model.url} {model.name}')}")
            message = f"{model.url} requires a key {status}, which `{model.scheme}:` does not send"
            return Check("model", "broken", message, f"export {OWN_KEY}=...; {own}")
        return Check("model", "broken", f"{model.url} rejected the key {status}", f"export {variable}=...")
    if answer.status_code != 200:
        message = f"{model.url} is reachable, but does not list its models (HTTP {answer.status_code})"
        return Check("model", "ok" if answer.status_code in (404, 405, 501) else "warning", message)
    return _listed(model, answer)


def _listed(model: ModelSpec, answer: requests.Response) -> Check:
    """Check that the server lists the model. If not, only warn: servers name models differently."""
    try:
        listed = json.loads(b"".join(bounded_http.body(answer)))["data"]
        names = [one_line(str(each["id"]))[:LONGEST_NAME] for each in listed]
    except (ValueError, KeyError, TypeError, RecursionError):
        return Check("model", "ok", f"{model.url} is reachable, with its list of models in an unknown format")
    if not names or any(name == model.name or name.startswith(f"{model.name}:") for name in names):
        return Check("model", "ok", f"{model.label} is available at {model.url}")
    shown = ", ".join(names[:SHOWN_MODELS]) + (" and others" if len(names) > SHOWN_MODELS else "")
    pull = f"ollama pull {shlex.quote(model.name)}" if model.scheme == "ollama" else None
    return Check("model", "warning", f"{model.url} does not list {model.name}, only {shown}", pull)
