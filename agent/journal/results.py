"""Render the rows of results.tsv: the journal's experiments in the table format that this family of tools shares.

`Session.record` commits them on the branch.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable

from agent.format import one_line, tabular
from agent.journal.experiment import Experiment, reservations
from agent.protocol.models import Protocol

LONGEST_REASON = 160
# A spreadsheet treats a cell that begins with one of these as a formula (OWASP, CSV injection).
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
TEXTS = ("commit", "status", "description")


def render(
    protocol: Protocol,
    experiments: Iterable[Experiment],
    short: Callable[[str], str],
    earlier: str = "",
    number: Callable[[float], str] = tabular,
    text: Callable[[str], str] = one_line,
) -> str:
    """Return the whole file in the protocol's format and columns.

    Args:
        short: abbreviates a commit hash.
        earlier: the content of the file before the session, kept above the session's rows.
        number: formats a metric.
        text: puts a description on one line.
    """
    columns = protocol.columns
    rows = [
        {**each, "description": text(each["description"])}
        for each in (row(protocol, experiment, short, number) for experiment in experiments)
    ]
    above = earlier if not earlier or earlier.endswith("\n") else f"{earlier}\n"
    if protocol.provenance.results_log.format == "jsonl":
        return above + "".join(
            json.dumps({column: r[column] for column in columns}, ensure_ascii=False) + "\n" for r in rows
        )
    tabs = protocol.provenance.results_log.format == "tsv"
    out = io.StringIO()
    # Readers of these tsv files split at tabs and know no quotes; `one_line` has removed whatever would need them.
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
    """Return whether rows in the protocol's columns can follow `text`: it is empty, or its header has these columns."""
    log = protocol.provenance.results_log
    if log.format == "jsonl" or not text.strip():
        return True
    head = text.removeprefix("\ufeff").splitlines()[0]
    try:
        return next(csv.reader([head], delimiter="\t" if log.format == "tsv" else ",")) == protocol.columns
    except csv.Error:  # such as an endless line
        return False


def cell(column: str, text: str) -> str:
    """Return a cell that is safe in a spreadsheet: an apostrophe precedes text that would be a formula.

    This applies to csv and tsv, because spreadsheets open both. Numbers are left alone, and no spreadsheet opens jsonl.
    """
    return f"'{text}" if column in TEXTS and text.lstrip(" ").startswith(FORMULA) else text


def row(
    protocol: Protocol,
    experiment: Experiment,
    short: Callable[[str], str],
    number: Callable[[float], str] = tabular,
) -> dict[str, str]:
    """Return one experiment's columns; a crash has 0.000000 and 0.0, as in the results format of this family.

    The description may have several lines.
    """
    metric = experiment.metric
    secondary = experiment.runs[-1].secondary if metric is not None else {}
    values = {m.name: f"{secondary.get(m.name, 0.0):g}" for m in protocol.measurement.secondary_metrics}
    description = experiment.description
    if experiment.verdict.status == "crash" or experiment.voided:
        description = f"{description} [{experiment.verdict.reason[:LONGEST_REASON]}]"
    elif experiment.rung is not None:
        description = f"{description} (screened out at {experiment.rung:g} s)"
    elif experiment.runs[-1].pruned is not None:
        description = f"{description} (pruned at {100 * experiment.runs[-1].pruned:.0f} %)"
    description += "".join(f" [{word}]" for word in reservations(experiment.runs))
    return {
        "memory_gb": f"{secondary.get('peak_vram_mb', 0.0) / 1024:.1f}",
        **values,
        "commit": short(experiment.commit),
        protocol.metric.name: number(metric if metric is not None else 0.0),
        "status": experiment.verdict.status,
        "description": description,
    }
