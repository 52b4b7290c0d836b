"""Parse --model: which server has the model, its address, and the key that it asks for.

Keys are read from the environment and sent only in a header: no log, text or error contains one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from agent.errors import PreconditionError, UsageError
from agent.system.hosts import is_loopback
from agent.system.masking import LOGIN

Format = Literal["openai", "anthropic"]

# scheme -> format, default address, variable that overrides the address, variable with the key
SERVERS: dict[str, tuple[Format, str, str, str]] = {
    "openai": ("openai", "https://api.openai.com/v1", "OPENAI_BASE_URL", "OPENAI_API_KEY"),
    "anthropic": ("anthropic", "https://api.anthropic.com", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"),
    "ollama": ("openai", "http://127.0.0.1:11434/v1", "OLLAMA_BASE_URL", ""),
    "lmstudio": ("openai", "http://127.0.0.1:1234/v1", "LMSTUDIO_BASE_URL", ""),
    "mlx": ("openai", "http://127.0.0.1:8080/v1", "MLX_BASE_URL", ""),
}
OWN_KEY = "AUTORESEARCH_MODEL_KEY"
OWN_SERVER = "http://HOST:PORT/v1 NAME"
ANTHROPIC_VERSION = "2023-06-01"


@dataclass(frozen=True)
class ModelSpec:
    """A model and its server.

    Attributes:
        scheme: a key of SERVERS, or "http" for any other server.
        url: base address without a trailing slash.
        key: API key; empty if none is needed.
    """

    scheme: str
    name: str
    format: Format
    url: str
    key: str = field(default="", repr=False)

    @property
    def label(self) -> str:
        return f"{self.scheme}:{self.name}"

    @property
    def here(self) -> bool:
        """Whether its address is on this machine."""
        try:
            host = urlsplit(self.url).hostname or ""
        except ValueError:
            return False
        return is_loopback(host) or host == "0.0.0.0"

    @property
    def free(self) -> bool:
        """Whether this machine computes its answers.

        Another server on this machine may be a gateway to a provider that is paid, and one of these on another may be
        rented.
        """
        return self.here and self.scheme in ("ollama", "lmstudio", "mlx")


def parse_model(text: str) -> ModelSpec:
    """Parse the value of --model.

    Args:
        text: `openai:NAME`, `anthropic:NAME`, `ollama:NAME`, `lmstudio:NAME`, `mlx:NAME` or `http://host/v1 NAME`.

    Raises:
        UsageError: the text has another form, or the address has a login or a query.
        PreconditionError: the API key is not in the environment, or is none.
    """
    if text.startswith(("http://", "https://")):
        url, _, name = text.partition(" ")
        if secret := _secret_part(url):
            raise UsageError(
                f"the address of --model has {secret}, which would be written to files",
                hint=f"run `export {OWN_KEY}=...`, and write `--model '{OWN_SERVER}'`",
            )
        if not name.strip():
            raise UsageError(f"--model {text!r} lacks the name of the model", hint=f"write `--model '{OWN_SERVER}'`")
        if not _is_address(url):
            raise UsageError(f"the address of --model {text!r} is invalid", hint=f"write `--model '{OWN_SERVER}'`")
        return ModelSpec("http", name.strip(), "openai", url.rstrip("/"), _key_in(OWN_KEY))
    scheme, _, name = text.partition(":")
    if scheme not in SERVERS or not name:
        known = ", ".join(f"{each}:NAME" for each in SERVERS)
        raise UsageError(f"--model must be {known} or '{OWN_SERVER}', got {text!r}")
    wire, address, url_variable, key_variable = SERVERS[scheme]
    key = _key_in(key_variable) if key_variable else ""
    if key_variable and not key:
        raise PreconditionError(
            f"--model {text} needs an API key, but {key_variable} is not set",
            hint=f"run `export {key_variable}=...`, or use a local model such as `--model ollama:NAME`",
        )
    own = os.environ.get(url_variable, "").strip()
    if secret := _secret_part(own):
        raise UsageError(
            f"the address in {url_variable} has {secret}, which would be written to files",
            hint=f"remove it there, or run `export {OWN_KEY}=...`, and write `--model '{OWN_SERVER}'`",
        )
    if own and not _is_address(own):
        raise UsageError(f"the address in {url_variable} is invalid: {own!r}", hint=f"write one such as {address}")
    return ModelSpec(scheme, name, wire, (own or address).rstrip("/"), key)


def _secret_part(url: str) -> str:
    """Name the part of an address that may hold a key; empty if there is none. No request could have its query."""
    if LOGIN.search(url):
        return "a login"
    return "a query or a fragment (`?` or `#`)" if "?" in url or "#" in url else ""


def _is_address(url: str) -> bool:
    """Return whether an address names a host, and a port that exists."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def key_variable_of(text: str) -> str:
    """Return the variable that holds the key, for a scheme or a value of --model; empty if no key is needed."""
    server = SERVERS.get(text.partition(":")[0])
    return server[3] if server else OWN_KEY


def headers_of(model: ModelSpec) -> dict[str, str]:
    """Return the headers that authenticate a request."""
    if model.format == "anthropic":
        return {"x-api-key": model.key, "anthropic-version": ANTHROPIC_VERSION}
    return {"Authorization": f"Bearer {model.key}"} if model.key else {}


def _key_in(variable: str) -> str:
    """Return the key in an environment variable, without the end of the line of the file that it was read from.

    Raises:
        PreconditionError: no header can hold it, so it would be part of an error that names the header.
    """
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise PreconditionError(
            f"{variable} holds characters that no API key has", hint="copy the key again, without quotes around it"
        )
    return key
