"""Sentences for sites and severities.

The sentences themselves are data that a radiologist can edit: ``captions.yaml`` (for training) and
``zero_shot.yaml`` (the ensembles of zero-shot classification). Both map condition -> severity -> sentences,
and both are checked when they are read.

>>> from data_prep.sites import Level, Side
>>> site = Site(Condition.NEURAL_FORAMINAL_NARROWING, Side.LEFT, Level.L4_L5)
>>> caption(site, Severity.SEVERE)
'L4-L5 left neural foraminal narrowing: severe'
>>> caption(site, None)
'L4-L5 left neural foraminal narrowing'
>>> training_captions(site, Severity.NORMAL_MILD)[3]
'the left neural foramen is patent at L4-L5'
"""

from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any

import yaml

from data_prep.sites import SITES, Condition, Severity, Site

Sentences = dict[tuple[Condition, Severity], tuple[str, ...]]

CAPTIONS = Path(__file__).with_name("captions.yaml")
ZERO_SHOT = Path(__file__).with_name("zero_shot.yaml")

SEVERITY_WORDS = {
    Severity.NORMAL_MILD: "normal or mild",
    Severity.MODERATE: "moderate",
    Severity.SEVERE: "severe",
}
_PLACEHOLDERS = {"level", "side", "condition", "severity"}


def caption(site: Site, severity: Severity | None) -> str:
    """Return the text of a pair: the caption of a site and severity, or without a severity the site's name."""
    return site.words if severity is None else f"{site.words}: {SEVERITY_WORDS[severity]}"


def training_captions(site: Site, severity: Severity) -> list[str]:
    """Return all wordings of one caption, the text of the pair first. No two captions share a wording."""
    own = caption(site, severity)
    return list(dict.fromkeys([own, *_render_all(_sentences(CAPTIONS), site, severity)]))


def zero_shot_prompts(site: Site, severity: Severity) -> list[str]:
    """Return the ensemble of sentences that represents one severity of a site in zero-shot classification."""
    return list(dict.fromkeys(_render_all(_sentences(ZERO_SHOT), site, severity)))


def zero_shot_ensembles() -> list[list[list[str]]]:
    """Return `zero_shot_prompts` of all sites, in the order of `SITES`, and severities."""
    return [[zero_shot_prompts(site, severity) for severity in Severity] for site in SITES]


def read_sentences(path: Path) -> Sentences:
    """Read and check a file of sentences: condition -> severity -> sentences with placeholders.

    Raises ValueError, which quotes file and entry, if a condition or severity is missing, unknown or empty, if a
    placeholder is unknown, or if one sentence would describe two sites or severities.
    """
    tree = _read_yaml(path)
    conditions = _keyed(tree, {c.value: c for c in Condition}, path.name)
    sentences: Sentences = {}
    for condition, severities in conditions.items():
        where = f"{path.name}: {condition}"
        for severity, entries in _keyed(severities, {s.key: s for s in Severity}, where).items():
            sentences[condition, severity] = _checked_entries(entries, condition, f"{where}: {severity.key}")
    _check_unambiguous(sentences, path.name)
    return sentences


@cache
def _sentences(path: Path) -> Sentences:
    return read_sentences(path)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name}: is not YAML: {error}") from None


def _render_all(sentences: Sentences, site: Site, severity: Severity) -> list[str]:
    return [_render(sentence, site, severity) for sentence in sentences[site.condition, severity]]


def _render(sentence: str, site: Site, severity: Severity) -> str:
    return sentence.format(
        level=site.level.words,
        side=site.side or "",
        condition=site.condition.words,
        severity=SEVERITY_WORDS[severity],
    )


def _keyed(tree: Any, members: dict[str, Any], where: str) -> dict[Any, Any]:
    """Return the mapping `tree` with enumeration members as keys. Raises ValueError unless it has exactly `members`."""
    if not isinstance(tree, dict):
        raise ValueError(f"{where}: expected a mapping with {', '.join(members)}, found {tree!r}")
    if unknown := [key for key in tree if key not in members]:
        raise ValueError(f"{where}: unknown entry {unknown[0]!r}; known are {', '.join(members)}")
    if missing := [key for key in members if key not in tree]:
        raise ValueError(f"{where}: {missing[0]!r} is missing")
    return {member: tree[key] for key, member in members.items()}


def _checked_entries(entries: Any, condition: Condition, where: str) -> tuple[str, ...]:
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{where}: expected a list of sentences, found {entries!r}")
    for number, entry in enumerate(entries, start=1):
        _check_entry(entry, condition, f"{where}: sentence {number} {entry!r}")
    return tuple(entries)


def _check_entry(entry: Any, condition: Condition, where: str) -> None:
    if not isinstance(entry, str) or not entry.strip():
        raise ValueError(f"{where}: expected a sentence (in quotation marks)")
    try:
        pieces = list(Formatter().parse(entry))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    fields = [field for _, field, _, _ in pieces if field is not None]
    if any(form or conversion for _, _, form, conversion in pieces):
        raise ValueError(f"{where}: a placeholder has a format or a conversion; write its name alone, as in {{level}}")
    if unknown := sorted(set(fields) - _PLACEHOLDERS):
        known = ", ".join(f"{{{name}}}" for name in sorted(_PLACEHOLDERS))
        raise ValueError(f"{where}: unknown placeholder {{{unknown[0]}}}; known are {known}")
    if "side" in fields and condition is Condition.SPINAL_CANAL_STENOSIS:
        raise ValueError(f"{where}: the spinal canal has no {{side}}; remove the placeholder")


def _check_unambiguous(sentences: Sentences, name: str) -> None:
    """Check that no sentence belongs to two of the 75 captions: the model would learn to confuse them."""
    caption_of: dict[str, str] = {}
    for site in SITES:
        for severity in Severity:
            own = caption(site, severity)
            for sentence in sentences[site.condition, severity]:
                text = _render(sentence, site, severity)
                other = caption_of.setdefault(text.casefold(), own)
                if other != own:
                    raise ValueError(
                        f"{name}: {site.condition}: {severity.key}: {sentence!r} becomes the same text ({text!r}) for "
                        f"{other!r} and for {own!r}; is {{level}}, {{side}} or the severity missing?"
                    )
