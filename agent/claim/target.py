"""Where a verification writes its attestation, so that it replaces nothing and no result is lost."""

from __future__ import annotations

import os
import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from agent.claim.folder import ATTESTATIONS, require_no_link
from agent.claim.models import Attestation
from agent.errors import AutoresearchError, PreconditionError, UsageError
from agent.system.files import read_bounded, reason, write_whole

LARGEST_ATTESTATION = 2**20


def target(claim: Path, out: Path | None) -> Path:
    """Return where to write the attestation of a claim, as far as can be told before the runs.

    Args:
        claim: the claim's folder.
        out: the file that the user named; None for a new one in the claim's folder.

    Raises:
        UsageError: something else is there, or it is a part of the claim.
        PreconditionError: its folder is not writable.
    """
    if out is None:
        require_no_link(claim, ATTESTATIONS)
        out = claim / ATTESTATIONS / f"{datetime.now(UTC):%Y-%m-%d}-{secrets.token_hex(4)}.json"
    _require_file(out)
    _require_outside(out, claim)
    above = next(each for each in out.absolute().parents if each.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise PreconditionError(f"cannot write to {above}", hint="name another file with `--out`")
    return out


def _require_file(out: Path) -> None:
    """Raise UsageError if a path cannot be that of a file, or something else than an attestation is there."""
    try:
        if out.is_dir():
            raise UsageError(f"--out needs a file, and {out} is a folder", hint="name a file in it")
        if content := read_bounded(out, LARGEST_ATTESTATION):  # an empty file, as of mktemp, holds nothing to lose
            Attestation.model_validate_json(content)
    except (FileNotFoundError, NotADirectoryError):  # a folder above that is a file has a message of its own
        return
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {reason(error)}", hint="choose another --out") from None
    except ValidationError:
        raise UsageError(f"--out {out} exists and is not an attestation", hint="choose another --out") from None


def _require_outside(out: Path, claim: Path) -> None:
    """Raise UsageError if a path is in the claim's folder, unless it is that of a new attestation."""
    place, folder = Path(os.path.realpath(out.parent)) / out.name, claim.resolve()
    new = place.parent == folder / ATTESTATIONS and not os.path.lexists(place)
    if place.is_relative_to(folder) and not new:
        raise UsageError(
            f"--out {out} is in the folder of the claim",
            hint=f"choose another --out, or leave it out for a new file in {ATTESTATIONS}/",
        )


def save(place: Path, about: Attestation, says: str) -> None:
    """Write an attestation. If that fails, print it, because its runs may have taken hours.

    Args:
        says: the result in one line.

    Raises:
        AutoresearchError: it could not be written.
    """
    text = about.model_dump_json(indent=2)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, f"{text}\n")
    except OSError as error:
        print(text, file=sys.stderr, flush=True)
        raise AutoresearchError(
            f"{says}; the attestation is not saved: cannot write {place}: {reason(error)}",
            hint="save what is printed above the error to a file",
        ) from None
