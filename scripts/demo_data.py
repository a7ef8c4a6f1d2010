"""The demo's data: synopses and long descriptions of Debian's packages, split by source package."""

import hashlib
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HELD_OUT_SHARE = 4  # one source package in four
SHINGLE = 8  # words
SAME_SIDE, OTHER_SIDE = 0.5, 0.1  # a larger share of equal shingles is a near-duplicate: within a side, and across


@dataclass(frozen=True, slots=True)
class Package:
    """A binary package: its source package, `synopsis` (the query) and `description` (the passage)."""

    name: str
    source: str
    synopsis: str
    description: str


def fetch_lists(folder: Path) -> Path:
    """Fetch the package index with English long descriptions into `folder`. The machine's own index stays as it is."""
    lists = folder / "lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    options = [f"-oDir::State::Lists={lists}", f"-oDir::Cache={folder}", "-oAcquire::Languages=en"]
    subprocess.run(["apt-get", *options, "-qq", "update"], check=True)
    return lists


def index_files(lists: Path) -> tuple[Path, Path, Path]:
    """Return the Release, Packages and Translation-en files of the main archive (not updates, not security)."""

    def largest(pattern: str) -> Path:
        found = sorted(lists.glob(pattern), key=lambda path: path.stat().st_size)
        if not found:
            raise SystemExit(f"{lists} holds no {pattern}: run apt-get with -o Acquire::Languages=en update")
        return found[-1]

    return largest("*InRelease"), largest("*_main_binary-*_Packages*"), largest("*_main_i18n_Translation-en*")


def text_of(path: Path) -> str:
    """Return an index file's text. apt decompresses it, since it knows every compression that it writes."""
    command = ["/usr/lib/apt/apt-helper", "cat-file", str(path.resolve())]
    return subprocess.run(command, check=True, capture_output=True).stdout.decode()


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """Yield the fields of each stanza of a Debian control file. Continuation lines keep their newlines."""
    for stanza in text.split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1] in (" ", "\t"):
                fields[name] = fields.get(name, "") + "\n" + line
            elif ":" in line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if fields:
            yield fields


def read_packages(packages: str, translations: str) -> list[Package]:
    """Join the two indexes by the description's hash. Leave out packages that are not `usable`."""
    texts: dict[str, tuple[str, str]] = {}
    for fields in stanzas(translations):
        synopsis, _, long = fields.get("Description-en", "").partition("\n")
        texts[fields.get("Description-md5", "")] = clean(synopsis), flowing(long)
    found = {}
    for fields in stanzas(packages):
        synopsis, description = texts.get(fields.get("Description-md5", ""), ("", ""))
        name = fields.get("Package", "")
        source = fields.get("Source", name).split(" ")[0]
        package = Package(name, source, synopsis, without(description, synopsis))
        if usable(package):
            found[name] = package
    return [found[name] for name in sorted(found)]


def flowing(long: str) -> str:
    """Undo the formatting of a long description: leading spaces, and ` .` for an empty line."""
    return clean(" ".join(line.strip() for line in long.splitlines() if line.strip() != "."))


def clean(text: str) -> str:
    """Collapse white space."""
    return re.sub(r"\s+", " ", text).strip()


def without(description: str, synopsis: str) -> str:
    """Remove the synopsis from the description. Otherwise the passage would contain the query."""
    return clean(re.sub(re.escape(synopsis), " ", description, flags=re.IGNORECASE)) if synopsis else description


def usable(package: Package) -> bool:
    """Tell whether a package's texts say what it is."""
    empty = re.search(r"transitional|dummy|metapackage|meta-package|debug symbols", package.synopsis, re.IGNORECASE)
    return not empty and len(package.synopsis.split()) >= 3 and len(package.description.split()) >= 20


def held_out(source: str) -> bool:
    """Tell whether a source package is held out. Splitting by source keeps siblings of held-out packages out of training."""
    return int(hashlib.sha256(source.encode()).hexdigest(), 16) % HELD_OUT_SHARE == 0


def shingles(text: str) -> set[str]:
    """Return all runs of eight words, without case and punctuation. A shorter text is one run."""
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}


def one_for_each_source(packages: Sequence[Package]) -> list[Package]:
    """Keep the package with the longest description from each source."""
    best: dict[str, Package] = {}
    for package in packages:
        if package.source not in best or len(package.description) > len(best[package.source].description):
            best[package.source] = package
    return list(best.values())


def distinct(packages: Sequence[Package], foreign: set[str]) -> list[Package]:
    """Drop near-duplicates of packages kept before or of the other side's shingles, `foreign`, and repeated synopses."""
    seen: set[str] = set()
    queries: set[str] = set()
    kept = []
    for package in packages:
        own = shingles(package.description)
        query = package.synopsis.lower()
        near = len(own & seen) > SAME_SIDE * len(own) or len(own & foreign) > OTHER_SIDE * len(own)
        if not near and query not in queries:
            kept.append(package)
            seen |= own
            queries.add(query)
    return kept


def split(packages: Sequence[Package]) -> tuple[list[Package], list[Package]]:
    """Return training and held-out packages, without near-duplicates within either or across; see `distinct`."""
    training = distinct([package for package in packages if not held_out(package.source)], set())
    known = set().union(*(shingles(package.description) for package in training))
    known_queries = {package.synopsis.lower() for package in training}
    others = one_for_each_source([package for package in packages if held_out(package.source)])
    fresh = [package for package in others if package.synopsis.lower() not in known_queries]
    return training, distinct(fresh, known)
