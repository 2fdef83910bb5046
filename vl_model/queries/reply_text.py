"""The reply to a query as lines for a person: how it was read, what it is worth, and the answers."""

from collections.abc import Sequence

from prompts.tree import Query
from vl_model.evaluation.typicality import ATYPICAL, ATYPICAL_WORDS
from vl_model.queries.buckets import SET_LEVEL
from vl_model.queries.estimates import Estimate
from vl_model.queries.reply import Reply
from vl_model.queries.search import Answer, Found, SpeakingSite
from vl_model.queries.worth import Worth

#: Studies without images of what was asked that are listed by name.
_LISTED = 5


def reply_text(reply: Reply) -> str:
    """Return the reply as lines for a person."""
    lines = reading_lines(reply)
    if reply.found is not None:
        worth = worth_lines(reply.found)
        lines = [*worth, *lines] if reply.query.limits.count_first else [*lines, *worth]
        lines += searched_lines(reply)
    lines.append("")
    lines += [answer_table(reply)] if reply.answers else [_why_none(reply)]
    if any(answer.seen for answer in reply.answers):
        lines += ["", "trained on: the model learned from this study, so its probabilities are too sure"]
    lines += _atypical_lines(reply)
    return "\n".join(lines)


def _atypical_lines(reply: Reply) -> list[str]:
    """Return which answers have images of another kind than the held-out studies."""
    ranks = [str(one.rank) for one in reply.answers if one.typicality is not None and one.typicality <= ATYPICAL]
    if not ranks:
        return []
    which = f"{'answer' if len(ranks) == 1 else 'answers'} {', '.join(ranks)}"
    return ["", f"atypical    {which}: {ATYPICAL_WORDS}; the probabilities may be wrong"]


def reading_lines(reply: Reply) -> list[str]:
    """Return how the query was read: first what was not."""
    query = reply.query
    lines = [f'text        "{query.text}"'] if query.text else []
    lines += _rest_lines(reply, query)
    if reply.line is not None:
        lines.append(f"read as     {reply.line}")
    return lines + [f"note        {note}" for note in reply.notes]


def _rest_lines(reply: Reply, query: Query) -> list[str]:
    likeness = reply.likeness
    if likeness is not None:
        told = f"highest cosine {likeness.highest:.3f}, where {likeness.needed:.3f} is needed"
        if likeness.is_told:
            return [f'likeness    to "{likeness.words}" ({told})']
        return [f"likeness    this model cannot tell '{likeness.words}' from nonsense ({told}): it was not used"]
    if not query.rest:
        return []
    return [f'not read    "{query.rest}": the answers are to the text without it']


def worth_lines(found: Found) -> list[str]:
    """Return what the query is worth, with the expected number of matches first."""
    worth = found.worth
    if not worth.known:
        return ["expected    not known: the run has no held-out study whose grades tell whether it matches"]
    lines = []
    if worth.expected_matches is not None:
        expected = worth.expected_matches
        span = f"{expected.low:.0f} to {expected.high:.0f}"
        lines.append(f"expected    {expected.value:.1f} of {worth.searched} studies match ({span})")
    lines.append(f"worth       {_worth_words(worth)}")
    return lines


def _worth_words(worth: Worth) -> str:
    words = [f"of {worth.known} held-out studies with known grades {worth.matches} match"]
    if worth.average_precision is not None and worth.matches:
        words.append(f"average precision {_with_interval(worth.average_precision)}")
    if worth.told_precision is not None:
        words.append(f"of these answers {_share(worth.told_precision)} match")
    if worth.recall is not None:
        words.append(f"recall at this cut {_with_interval(worth.recall)}")
    if worth.recalibration is None:
        words.append("too few match, or too few do not, to tell probabilities: only the order is told")
    return "; ".join(words)


def _share(estimate: Estimate) -> str:
    return f"{estimate.value:.0%} ({estimate.low:.0%} to {estimate.high:.0%})"


def _with_interval(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def searched_lines(reply: Reply) -> list[str]:
    """Return how many studies were searched, left out, and not assessable."""
    found = reply.found
    assert found is not None
    splits = " and ".join(reply.segments)
    lines = [f"searched    {found.studies} studies of run {reply.run!r} ({splits})"]
    if found.left_out:
        lines[0] += f"; {found.left_out} that it was trained on are left out (--seen adds them)"
    told = found.buckets
    lines.append(
        f"by sets     {told.matches} match, {told.cannot_tell} cannot be told, {told.does_not} do not "
        f"(prediction sets of {SET_LEVEL} %)"
    )
    if found.not_assessable:
        listed = ", ".join(str(one.study_id) for one in found.not_assessable[:_LISTED])
        more = ", ..." if len(found.not_assessable) > _LISTED else ""
        lack = "study lacks" if len(found.not_assessable) == 1 else "studies lack"
        lines.append(f"no image    {len(found.not_assessable)} {lack} a site that is asked for: {listed}{more}")
    return lines


def _why_none(reply: Reply) -> str:
    found = reply.found
    if found is None and reply.likeness is None:
        return "no answers: no other unseen study has an image of such a site (--seen adds those it was trained on)"
    if found is None:
        return "no answers: these words were not used, and nothing that is graded was asked for"
    if not found.studies:
        return "no answers: the model was trained on all of these studies (--seen searches them too)"
    if found.studies == len(found.not_assessable):
        return "no answers: no study has images of all sites that are asked for"
    return "no answers: no study is probable enough (--least 0 shows the most probable ones)"


def answer_table(reply: Reply) -> str:
    """Return aligned columns: one line per site that speaks for an answer."""
    has_truth = reply.truth is not None or any(
        reply.known_severity(answer, site) is not None for answer in reply.answers for site in answer.sites
    )
    head = ["rank", "study", "P", "site", "normal/mild", "moderate", "severe", "view", "series/image", "box", "source"]
    head += ["truth"] if has_truth else []
    rows = [[*head, ""]]
    for answer in reply.answers:
        for number, site in enumerate(answer.sites):
            rows.append(_cells(reply, answer, site, is_first=number == 0, has_truth=has_truth))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _cells(reply: Reply, answer: Answer, speaking: SpeakingSite, is_first: bool, has_truth: bool) -> list[str]:
    cells = [str(answer.rank), str(answer.study_id), chance_words(answer)] if is_first else ["", "", ""]
    cells += [speaking.site.words, *(f"{p:.3f}" for p in speaking.probabilities), *_evidence_cells(speaking)]
    if has_truth:
        severity = reply.known_severity(answer, speaking)
        cells.append("unknown" if severity is None else severity.key)
    return [*cells, "trained on" if answer.seen and is_first else ""]


def _evidence_cells(speaking: SpeakingSite) -> Sequence[str]:
    if not speaking.evidence:
        return ["", "", "", ""]
    first = speaking.evidence[0]
    box = ",".join(f"{x:.0f}" for x in first.box)
    return [first.view.words, f"{first.series_id}/{first.instance_number}", box, first.source.value]


def chance_words(answer: Answer) -> str:
    """Return an answer's probability; if it is not known, that its rank alone is, or its likeness."""
    if answer.probability is not None:
        return f"{answer.probability:.2f}"
    return "rank only" if answer.likeness is None else f"{answer.likeness:+.3f}"
