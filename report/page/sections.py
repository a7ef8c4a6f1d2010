"""`sections_of` returns the sections of a page."""

from collections.abc import Iterable

from ...evaluation.result import Evaluation
from ...speed.result.speeds import Speeds
from ..peers import Peers
from ..results import Results
from ..row import rows_of
from .cells import machine_of, versions_of
from .overview import overview_section
from .peers import peers_section
from .proofs import bundles_section
from .rankings import ranking_section
from .section import Section
from .speeds import speed_section
from .table import EMPTY, Cell, Column, Table


def sections_of(results: Results) -> list[Section]:
    """Return the sections of a page. Kinds of results that were not given have no section."""
    rows = rows_of(results)
    found = [overview_section(results, rows)] if rows else []
    found += [
        speed_section(f"speed-{place}", file, speeds, [row for row in rows if row.measured is speeds])
        for place, (file, speeds) in enumerate(results.speeds, start=1)
    ]
    found += [
        ranking_section(f"quality-{place}", evaluation)
        for place, (_, evaluation) in enumerate(results.evaluations, start=1)
    ]
    found += [peers_section(f"peers-{place}", peers) for place, (_, peers) in enumerate(results.peers, start=1)]
    if results.bundles:
        found.append(bundles_section([proof for _, proof in results.bundles]))
    return [*found, _sources(results)]


def _sources(results: Results) -> Section:
    measured: Iterable[tuple[str, str, Evaluation | Speeds | Peers]] = (
        *((file, "crossrt bench", speeds) for file, speeds in results.speeds),
        *((file, "crossrt evaluate", evaluation) for file, evaluation in results.evaluations),
        *((file, "benchmarks/cpu.py", peers) for file, peers in results.peers),
    )
    rows = [
        [
            Cell(file),
            Cell(kind),
            Cell(machine_of(result.machine)),
            # An evaluation has no date, so that an interrupted one has the same bytes in the end.
            EMPTY if isinstance(result, Evaluation) or result.date is None else Cell(result.date),
            Cell(result.commit),
            Cell(versions_of(result.versions)),
        ]
        for file, kind, result in measured
    ]
    rows += [
        [Cell(file), Cell("crossrt export"), EMPTY, EMPTY, EMPTY, Cell(versions_of(proof.tools))]
        for file, proof in results.bundles
    ]
    titles = ("File", "Made by", "Machine", "Date", "Commit", "Versions")
    table = Table(
        label="Where the figures come from", columns=[Column(title=title, number=False) for title in titles], rows=rows
    )
    words = ["A + behind a commit says that files differed from it."] if any("+" in row[4].text for row in rows) else []
    return Section(name="sources", title="Where the figures come from", words=words, tables=[table])
