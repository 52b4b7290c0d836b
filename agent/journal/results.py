"""The rows of results.tsv: the journal's experiments as the table that this family of tools shares.

`Session.record` puts them into the branch's commit.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable

from agent.format import one_line as one_line
from agent.journal.experiment import Experiment, reservations
from agent.protocol.models import Protocol

LONGEST_REASON = 160
# A spreadsheet takes a cell that begins with one of these for a formula (OWASP, CSV injection).
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
TEXTS = ("commit", "status", "description")


def render(
    protocol: Protocol, experiments: Iterable[Experiment], short: Callable[[str], str], earlier: str = ""
) -> str:
    """Return the whole file in the protocol's format and columns.

    short: abbreviates a commit. earlier: what the file held before the session, which stays above its rows.
    """
    columns = protocol.columns
    rows = [row(protocol, experiment, short) for experiment in experiments]
    above = earlier if not earlier or earlier.endswith("\n") else f"{earlier}\n"
    if protocol.provenance.results_log.format == "jsonl":
        return above + "".join(
            json.dumps({column: r[column] for column in columns}, ensure_ascii=False) + "\n" for r in rows
        )
    tabs = protocol.provenance.results_log.format == "tsv"
    out = io.StringIO()
    # A tsv of this family is split at tabs and knows no quotes; `one_line` has taken out what would need them.
    writer = (
        csv.writer(out, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
        if tabs
        else csv.writer(out, lineterminator="\n")
    )
    if not above.strip():
        above = ""
        writer.writerow(columns)
    writer.writerows([cell(column, r[column]) for column in columns] for r in rows)
    return above + out.getvalue()


def has_columns(protocol: Protocol, text: str) -> bool:
    """Return whether rows of the protocol's columns can follow `text`: it is empty, or begins with their names."""
    log = protocol.provenance.results_log
    if log.format == "jsonl" or not text.strip():
        return True
    head = text.removeprefix("\ufeff").splitlines()[0]
    try:
        return next(csv.reader([head], delimiter="\t" if log.format == "tsv" else ",")) == protocol.columns
    except csv.Error:  # a line without end, for one
        return False


def cell(column: str, text: str) -> str:
    """A cell of a table that a spreadsheet opens: text that would be a formula there has an apostrophe before it.

    In tsv too: spreadsheets open both alike. Numbers stay as they are; jsonl is opened by none.
    """
    return f"'{text}" if column in TEXTS and text.lstrip(" ").startswith(FORMULA) else text


def row(protocol: Protocol, experiment: Experiment, short: Callable[[str], str]) -> dict[str, str]:
    """One experiment's columns; a crash has 0.000000 and 0.0, as the results format of this family does."""
    metric = experiment.metric
    secondary = experiment.runs[-1].secondary if metric is not None else {}
    values = {m.name: f"{secondary.get(m.name, 0.0):g}" for m in protocol.measurement.secondary_metrics}
    description = experiment.description
    if experiment.verdict.status == "crash" or experiment.void:
        description = f"{description} [{experiment.verdict.reason[:LONGEST_REASON]}]"
    elif experiment.runs[-1].pruned is not None:
        description = f"{description} (pruned at {100 * experiment.runs[-1].pruned:.0f} %)"
    description += "".join(f" [{word}]" for word in reservations(experiment.runs))
    return {
        **values,
        "commit": short(experiment.commit),
        protocol.metric.name: f"{metric if metric is not None else 0.0:.6f}",
        "memory_gb": f"{secondary.get('peak_vram_mb', 0.0) / 1024:.1f}",
        "status": experiment.verdict.status,
        "description": one_line(description),
    }
