"""Mask the secrets of the environment in a text: a run may print one that it sees, and its words go elsewhere.

They become the reason of a crash, which the journal, the report and the prompts of models repeat.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import AnyStr

SHORTEST_SECRET = 12  # characters; a text may hold a shorter value by chance, as code holds `x`
LONGEST_SECRET = 8192  # characters, as of a private key: what is cut from a log is read with so much before it
LOGIN = re.compile(r"://[^/\s]*@")
# Usual names of secrets. Only whole words count: TOKENIZERS_PARALLELISM is not a token, and PWD is not a password.
SECRET = re.compile(
    r"API_?KEY|AUTH_?TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|WEBHOOK"
    r"|(^|_)(ACCESS_?KEY|PRIVATE_?KEY|TOKENS?|AUTH)(_|$)|(^|_)(KEYS?|PAT|DSN)$"
    r"|_(PASS|PWD)$|^AWS_(?!(DEFAULT_)?REGION$)",
    re.IGNORECASE,
)


def secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return value -> name of the variables that hold secrets, or an address with a password."""
    found = {value.strip(): n for n, value in environment.items() if SECRET.search(n) or LOGIN.search(value)}
    return {value: name for value, name in found.items() if len(value) >= SHORTEST_SECRET}


def without_secrets(text: AnyStr) -> AnyStr:
    """Replace secrets from the environment by the names of their variables. Other bytes stay as they are."""
    shown = {secret: f"({name})" for secret, name in secrets(os.environ).items()}
    if isinstance(text, bytes):
        return masked(text.decode(errors="surrogateescape"), shown).encode(errors="surrogateescape")
    return masked(text, shown)


def masked(text: str, shown: Mapping[str, str]) -> str:
    """Return a text with each secret replaced by what is shown in its place.

    Args:
        shown: secret -> replacement. Those below SHORTEST_SECRET stay: replacing them would change what a text means.
    """
    for secret in sorted(shown, key=len, reverse=True):  # one may contain another
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, shown[secret])
    return text
