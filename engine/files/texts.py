"""`read_texts`: queries or passages by their ids, from `id <tab> text` lines or JSON objects."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import DataFileError
from .source import Given, Line, Source

ID_FIELDS = ("id", "_id", "pid", "passage_id", "docid", "doc_id", "qid", "query_id")
"""Passages of MS MARCO v2 have a `pid`, and the `docid` of the document that they come from."""
TEXT_FIELDS = ("contents", "text", "passage", "query")
"""Names of JSON fields and Parquet columns, as in Pyserini, BEIR and Hugging Face's copies. The first one that exists is
used."""
TITLE_FIELD = "title"
"""A title is put before `text`, with a space, as BEIR scores its documents. Pyserini's `contents` already includes it."""
FORMS = "`id <tab> text`, or a JSON object with an id (id, _id, ...) and a text (contents, text, ...)"


class Text(NamedTuple):
    """An id, its text, and the number of tabs in its line; 0 if the line is JSON."""

    id: str
    text: str
    tabs: int


def read_texts(given: Given, *, only: Collection[str] | None = None) -> dict[str, str]:
    """Read texts by their ids; with `only`, keep only these ids. Raises DataFileError for a repeated id that is kept."""
    source = Source.of(given)
    texts: dict[str, str] = {}
    for line, text in located_texts(source):
        if only is not None and text.id not in only:
            continue  # not even its id is kept: a million ids take 0.1 GB
        if text.id in texts:
            raise DataFileError(f"{line.where}: the id {text.id} comes a second time; ids must be unique")
        texts[text.id] = text.text
    return texts


def located_texts(source: Source) -> Iterator[tuple[Line, Text]]:
    """Yield every line with its text.

    Raises DataFileError for a line that cannot be used, and at the end for a file with more than two columns in every line.
    """
    tabs: set[int] = set()
    for line in source.lines():
        text = text_of(line)
        tabs.add(text.tabs)
        yield line, text
    check_columns(tabs, source, "`id <tab> text`")


def text_of(line: Line) -> Text:
    """Return the id and the text of a line. Raises DataFileError, naming the forms that were tried, for any other line."""
    fields = json_object(line.text)
    if fields is not None:
        name, text = field_as_id(fields, ID_FIELDS), text_in(fields)
        if name and text is not None:
            check_unicode(text, line)
            return Text(checked_id(name, line), text, 0)
        raise DataFileError(f"{line.where}: expected {FORMS}, got {shown(line.text)} with the fields {_names(fields)}")
    name, tab, text = line.text.partition("\t")
    if not tab or not name:
        raise DataFileError(f"{line.where}: expected {FORMS}, got {shown(line.text)}")
    return Text(name, text, 1 + text.count("\t"))


def numbered_text(line: Line, number: int) -> Text | None:
    """Return the text of a JSON object that has no id, with `number` as its id; None for any other line."""
    fields = json_object(line.text)
    text = None if fields is None or field_as_id(fields, ID_FIELDS) else text_in(fields)
    if text is None:
        return None
    check_unicode(text, line)
    return Text(str(number), text, 0)


def json_object(text: str) -> dict[str, Any] | None:
    """Return the object that a line of JSON Lines holds; None for any other line."""
    if not text.startswith("{"):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def text_in(fields: Mapping[str, Any]) -> str | None:
    """Return the text of a JSON object, with its title before it, or its title if there is nothing else. Otherwise None."""
    name = next((name for name in TEXT_FIELDS if isinstance(fields.get(name), str)), None)
    title = fields.get(TITLE_FIELD)
    if not isinstance(title, str) or not title or name not in ("text", None):
        return None if name is None else fields[name]
    if name is None:
        return None if _other_text(fields) else title
    return f"{title} {fields[name]}"


def _other_text(fields: Mapping[str, Any]) -> bool:
    """Tell whether an object without a text has one by another name or in another form, such as the `body` of MS MARCO v2."""
    known = [fields[name] for name in TEXT_FIELDS if name in fields]
    if known:
        return any(value is not None for value in known)
    return any(isinstance(value, str) for name, value in fields.items() if name not in (*ID_FIELDS, TITLE_FIELD))


def check_columns(tabs: Collection[int], source: object, form: str) -> None:
    """Raise DataFileError for a source whose lines all have the same number of tabs, above 1: it has more columns than `form`.

    `tabs` are the numbers of tabs that occur. Different numbers mean that texts contain tabs; such texts are scored as they are.
    """
    if len(tabs) == 1 and max(tabs) > 1:
        raise DataFileError(
            f"{source}: every line has {max(tabs) + 1} columns, and {form} has 2; leave out the others, with `cut -f 1,3` for "
            "the first and the third, or join with a space what is to be scored together"
        )


def check_no_header(line: Line) -> None:
    """Raise DataFileError for a first line of column names, such as `id,text`: it would be ranked as a passage."""
    names = {name.strip('" ').lower() for name in re.split("[,\t]", line.text)}
    if names <= {*ID_FIELDS, *TEXT_FIELDS, TITLE_FIELD} and names & {*ID_FIELDS} and names & {*TEXT_FIELDS}:
        advice = (
            "remove this line" if "\t" in line.text else "convert CSV to `id <tab> text` lines, JSON Lines or Parquet"
        )
        raise DataFileError(f"{line.where}: {shown(line.text)} is a header and not a passage; {advice}")


def shown(line: str) -> str:
    """Return the beginning of a line, for messages."""
    return repr(line if len(line) <= 60 else line[:57] + "...")


def checked_id(name: str, line: Line) -> str:
    """Return an id from JSON. Raises DataFileError for one with spaces or line ends, which a run cannot contain."""
    if len(name.split()) != 1 or name != name.strip():
        raise DataFileError(f"{line.where}: the id {name!r} is not one word")
    check_unicode(name, line)
    return name


def check_unicode(text: str, line: Line) -> None:
    """Raise DataFileError for half of a surrogate pair, which JSON can contain and UTF-8 cannot."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataFileError(
                f"{line.where}: character {error.start + 1} of {shown(text)} is half of a surrogate pair, which is no text"
            ) from None


def field_as_id(fields: Mapping[str, Any], names: Collection[str]) -> str:
    """Return the first of these fields that is a string or a whole number, as an id; an empty string if there is none."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            return str(value)
    return ""


def _names(fields: Mapping[str, Any]) -> str:
    return ", ".join(list(fields)[:10]) or "none"


def is_json(lines: Sequence[str]) -> bool:
    """Tell whether these lines are a JSON document, or JSONL, whose lines are objects."""
    if not lines[0].lstrip().startswith(("{", "[")):
        return False

    def parsed(text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return None

    return isinstance(parsed(lines[0]), dict) or parsed("\n".join(lines)) is not None
