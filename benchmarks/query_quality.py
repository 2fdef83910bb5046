"""Measure how good the answers to prompts are, and whether what is told of a question's worth is true.

    python -m benchmarks.query_quality --root ROOT --run RUN --split NAME --truth CSV
    python -m benchmarks.query_quality --root ROOT --run RUN --split train --halvings 10 --data "RSNA 2024"

400 prompts of thirteen kinds (`benchmarks.drawn_prompts`) are asked of the studies of a split or of a kept set, whose
true grades are in a table, or else in the data set. Each is read by the parser as a user's text is, but its matches are
those of its meaning, which does not come from the parser. The answers are compared with a ranking by cosine alone: of
the text's embedding with that of each study's best site, among the sites that the prompt means.

What is told beside the answers is compared with what is true of the same studies. The held-out studies of the training
split tell it. With `--halvings`, these studies are the ones that are searched as well: a random half of them tells,
and the other half is searched, several times over.

Last come texts that mean nothing, with `--likeness`, and the captions that the model was trained with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.drawn_prompts import KINDS, Prompt, draw_prompts
from benchmarks.machine import machine_lines
from benchmarks.nonsense import CAPTIONS, NONSENSE
from benchmarks.ranking_quality import MEASURES, TOP, Compared, compare, measures
from benchmarks.told_worth import Told, told_lines, told_of
from data_prep.sites import SITES, Condition
from data_prep.truth import read_grades
from prompts.formula import mean_the_same
from prompts.reading.parse import parse_query
from prompts.tree import Query, tree_sites
from vl_model import load_run
from vl_model.queries.likeness import highest_cosines, neutral_texts
from vl_model.queries.run_queries import Asked, RunQueries
from vl_model.queries.search import Bounds, search
from vl_model.queries.segment import Segment
from vl_model.queries.tree_probability import possible_severities, tree_probability, tree_truth
from workspace.cli import run_command
from workspace.root_settings import FinishedRunSettings
from workspace.setting_error import SettingError
from workspace.setting_types import NonNegativeInteger, PositiveInteger
from workspace.settings_parser import read_settings
from workspace.whole_files import replacing

PROG = "-m benchmarks.query_quality"
#: The names of the two halves of the held-out studies: known segments are those of the training split.
_TELLING, _SEARCHED = "train", "searched"


@dataclass(frozen=True, kw_only=True)
class Settings(FinishedRunSettings):
    """Settings of the benchmark of answers."""

    split: str
    """The studies to search: test, a set that predict_vl.py kept, or train, of which the held-out ones are searched."""
    truth: str | None = None
    """A CSV file of true grades. By default they are those of dataset.json."""
    halvings: NonNegativeInteger = 0
    """How often the studies are divided into a half that tells what a question is worth and one that is searched."""
    prompts: PositiveInteger = 400
    """The number of prompts."""
    seed: NonNegativeInteger = 15
    """The seed of the prompts and of the halves."""
    data: str | None = None
    """What the data is, for the first line of the print."""
    out: str | None = None
    """The file to which the print is written too."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    if settings.split == "train" and not settings.halvings:
        raise SettingError(
            "halvings", "0: the held-out studies of train tell the worth themselves; give, for example, 10"
        )
    queries = load_run(settings.root, settings.run, settings.base).queries(say=print)
    [segment] = queries.segments(settings.split)
    cohort = of_studies(segment, np.flatnonzero(~segment.seen_S))
    if settings.truth is not None:
        cohort = replace(cohort, label_SX=labels_of(cohort, Path(settings.truth)))
    conditions = [c for c in Condition if cohort.imaged_SX[:, [s.condition is c for s in SITES]].any()]
    named_X = np.array([site.condition in conditions for site in SITES])
    cohort = of_studies(cohort, np.flatnonzero((cohort.label_SX[:, named_X] >= 0).all(axis=1)))
    if len(cohort) < 2 * TOP:
        raise SettingError("split", f"{settings.split!r}: has {len(cohort)} unseen studies whose grades are all known")
    prompts = draw_prompts(settings.seed, settings.prompts, conditions)

    lines = [*([settings.data] if settings.data else []), *machine_lines("numpy")]
    lines += [f"{len(cohort)} unseen studies of {settings.split!r}, {len(prompts)} prompts, the first {TOP} answers"]
    lines += ["", *ranking_lines(queries, cohort, prompts)]
    lines += ["", *told_lines(told_of_all(queries, cohort, prompts, settings), list(KINDS))]
    lines += ["", *likeness_lines(queries, settings.split)]
    print("\n".join(lines))
    if settings.out is not None:
        with replacing(Path(settings.out)) as partial:
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def of_studies(segment: Segment, rows: np.ndarray, name: str | None = None) -> Segment:
    """Return the segment of some rows alone, in memory."""
    return replace(
        segment,
        name=segment.name if name is None else name,
        study_S=segment.study_S[rows],
        seen_S=segment.seen_S[rows],
        graded_SX3=np.array(segment.graded_SX3[rows]),
        vector_XSD=np.array(segment.vector_XSD[:, rows]),
        label_SX=np.array(segment.label_SX[rows]),
        evidence_SX2=np.array(segment.evidence_SX2[rows]),
    )


def labels_of(segment: Segment, truth: Path) -> np.ndarray:
    """Return the true grades (S, X) of a table, -1 for those that it does not have."""
    grades = read_grades(truth)
    studies = segment.study_S.tolist()
    return np.array([[int(grades.get((study, site), -1)) for site in SITES] for study in studies], dtype=np.int8)


def with_segments(queries: RunQueries, telling: Segment | None, searched: Segment) -> RunQueries:
    """Return the queries of a run that finds these segments in place of those on the disk."""
    opened = {searched.name: searched} | ({} if telling is None else {_TELLING: telling})
    return replace(queries, _opened=opened)


def matches_of(prompts: Sequence[Prompt], label_SX: np.ndarray) -> np.ndarray:
    """Return whether each study matches each prompt (P, N). All grades that the prompts turn on are known."""
    possible_SX = possible_severities(label_SX)
    return np.stack([tree_truth(prompt.meaning, possible_SX)[0] for prompt in prompts])


def promised_precisions(cohort: Segment, prompts: Sequence[Prompt], draws: int = 10) -> np.ndarray:
    """Return the precision (P,) of a ranking by these probabilities, if grades were drawn from them independently.

    Where sites are independent and the probabilities are right, no ranking by them does better.
    """
    rng = np.random.default_rng(0)
    cut_SX2 = np.nan_to_num(cohort.graded_SX3, nan=1 / 3).cumsum(axis=2)[..., :2]
    score_PN = np.stack([tree_probability(prompt.meaning, cohort.graded_SX3) for prompt in prompts])
    order_PN = np.argsort(-np.nan_to_num(score_PN, nan=-1.0), axis=1, kind="stable")
    once_PN = np.ones_like(order_PN)
    drawn = []
    for _ in range(draws):
        match_PN = matches_of(prompts, (rng.random((*cut_SX2.shape[:2], 1)) > cut_SX2).sum(axis=2))
        drawn.append(measures(np.take_along_axis(match_PN, order_PN, axis=1), once_PN)[MEASURES[0]])
    return np.ma.masked_invalid(drawn).mean(axis=0).filled(np.nan)


def ranking_lines(queries: RunQueries, cohort: Segment, prompts: Sequence[Prompt]) -> list[str]:
    """Return the quality of the answers by kind of prompt, beside that of cosine alone."""
    match_PN = matches_of(prompts, cohort.label_SX)
    searched = of_studies(cohort, np.arange(len(cohort)), _SEARCHED)
    answers = with_segments(queries, None, searched)
    text_PD = queries.embed([prompt.text for prompt in prompts])
    order = {
        "answers": np.stack(
            [ranked_by_answers(answers, p, searched, match_N) for p, match_N in zip(prompts, match_PN, strict=True)]
        ),
        "cosine": np.stack([ranked_by_cosine(p, text_D, cohort) for p, text_D in zip(prompts, text_PD, strict=True)]),
    }
    compared = compare(match_PN, order)
    possible_P = match_PN.any(axis=1)
    lines = [
        f"precision at {TOP} over its ceiling, average precision and nDCG at {TOP}: mean with 95 % interval;",
        "promised: the precision that the same ranking would have, if grades were drawn from the model's probabilities",
        f"{'kind':<20}{'prompts':>8}{'no match':>9}{'read':>6}{'promised':>11}  {'answers':<22}{'cosine alone':<22}"
        f"{'difference':<22}{'average precision':<22}{'cosine':<8}{'nDCG':<22}{'cosine':<6}",
    ]
    places = {kind: np.array([p.kind == kind for p in prompts]) for kind in KINDS} | {
        "all": np.ones(len(prompts), bool)
    }
    is_read_P = np.array([is_read(prompt) for prompt in prompts])
    promised_P = promised_precisions(cohort, prompts)
    for kind, of_kind_P in places.items():
        rows = np.flatnonzero(of_kind_P & possible_P)
        counts = f"{of_kind_P.sum():>8}{(of_kind_P & ~possible_P).sum():>9}{is_read_P[of_kind_P].sum():>6}"
        counts += f"{np.nanmean(promised_P[of_kind_P]):>11.2f}"
        lines.append(f"{kind:<20}{counts}  " + (quality_row(compared, rows) if len(rows) else ""))
    matches_P = match_PN.sum(axis=1)
    for words, chosen_P in ((f"all, matches < {TOP}", matches_P < TOP), (f"all, matches >= {TOP}", matches_P >= TOP)):
        rows = np.flatnonzero(chosen_P & possible_P)
        lines.append(
            f"{words:<20}{len(rows):>8}{'':>15}{np.nanmean(promised_P[rows]):>11.2f}  "
            + (quality_row(compared, rows) if len(rows) else "")
        )
    lines += aim_lines(compared, {kind: np.flatnonzero(rows & possible_P) for kind, rows in places.items()})
    misread = [f'  "{p.text}"' for p, is_right in zip(prompts, is_read_P, strict=True) if not is_right]
    return [*lines, f"prompts that were not read as they are meant: {len(misread)}", *misread]


def quality_row(compared: Compared, rows: np.ndarray) -> str:
    precision, average, gain = MEASURES
    return (
        f"{compared.spread('answers', precision, rows)!s:<22}{compared.spread('cosine', precision, rows)!s:<22}"
        f"{compared.spread('answers', precision, rows, minus='cosine')!s:<22}"
        f"{compared.spread('answers', average, rows)!s:<22}{compared.spread('cosine', average, rows).value:<8.2f}"
        f"{compared.spread('answers', gain, rows)!s:<22}{compared.spread('cosine', gain, rows).value:<6.2f}"
    ).rstrip()


def aim_lines(compared: Compared, rows_of: dict[str, np.ndarray]) -> list[str]:
    precision = MEASURES[0]
    kinds = {kind: rows for kind, rows in rows_of.items() if kind != "all" and len(rows)}
    low = {k: v for k, rows in kinds.items() if (v := compared.spread("answers", precision, rows).value) < 0.9}
    unclear = [k for k, rows in kinds.items() if compared.spread("answers", precision, rows, minus="cosine").low <= 0]
    overall = compared.spread("answers", precision, rows_of["all"]).value
    return [
        f"aim: at least 0.95 overall: {overall:.3f}, {'met' if overall >= 0.95 else 'MISSED'}",
        f"aim: at least 0.90 in every kind: {_verdict([f'{k} {v:.3f}' for k, v in low.items()])}",
        f"aim: above cosine alone in every kind, by an interval that excludes zero: {_verdict(unclear)}",
    ]


def _verdict(missed: Sequence[str]) -> str:
    return f"MISSED: {', '.join(missed)}" if missed else "met"


def read(prompt: Prompt) -> Query | None:
    """Return the prompt as the parser reads it; None if it is refused."""
    try:
        return parse_query(prompt.text)
    except ValueError:
        return None


def is_read(prompt: Prompt) -> bool:
    query = read(prompt)
    return query is not None and query.tree is not None and mean_the_same(query.tree, prompt.meaning)


def ranked_by_answers(queries: RunQueries, prompt: Prompt, cohort: Segment, match_N: np.ndarray) -> np.ndarray:
    """Return the studies in the order of the answers.

    Those that are no answers, as after a prompt that is refused, follow in the worst order: matches come last.
    """
    query = read(prompt)
    found: list[int] = []
    if query is not None and query.tree is not None:
        reply = queries.ask(query, Asked(cohort.name, top=len(cohort), least=0.0))
        found = [row for answer in reply.answers if (row := cohort.row_of(answer.study_id)) is not None]
    others = set(range(len(cohort))) - set(found)
    return np.array(found + sorted(others, key=lambda row: (bool(match_N[row]), row)))


def ranked_by_cosine(prompt: Prompt, text_D: np.ndarray, cohort: Segment) -> np.ndarray:
    """Return the studies in the order of their best cosine among the sites that the prompt means."""
    sites = [index for index, site in enumerate(SITES) if site in tree_sites(prompt.meaning)]
    cosine_SM = np.where(cohort.imaged_SX[:, sites], (cohort.vector_XSD[sites] @ text_D).T, -2.0)
    return np.lexsort((cohort.study_S, -cosine_SM.max(axis=1)))


def told_of_all(queries: RunQueries, cohort: Segment, prompts: Sequence[Prompt], settings: Settings) -> list[Told]:
    """Return what is told of each prompt, beside the truth; with halves, once for each of them."""
    if not settings.halvings:
        [telling] = queries.known_segments()
        return told_once(queries, telling, of_studies(cohort, np.arange(len(cohort)), _SEARCHED), prompts)
    rng = np.random.default_rng(settings.seed)
    told: list[Told] = []
    for _ in range(settings.halvings):
        order_S = rng.permutation(len(cohort))
        first, second = np.sort(order_S[: len(cohort) // 2]), np.sort(order_S[len(cohort) // 2 :])
        halves = of_studies(cohort, first, _TELLING), of_studies(cohort, second, _SEARCHED)
        told += told_once(queries, *halves, prompts)
    return told


def told_once(queries: RunQueries, telling: Segment, searched: Segment, prompts: Sequence[Prompt]) -> list[Told]:
    """Ask every prompt, and compare what is told with the truth of the studies searched."""
    asked = with_segments(queries, telling, replace(searched, label_SX=np.full_like(searched.label_SX, -1)))
    told = []
    for prompt, match_N in zip(prompts, matches_of(prompts, searched.label_SX), strict=True):
        query = read(prompt)
        if query is None or query.tree is None:
            continue
        reply = asked.ask(query, Asked(searched.name, top=TOP, least=0.0))
        assert reply.found is not None
        everything = search(query.tree, asked.segments(searched.name), [], Bounds(len(searched), 0.0))
        told.append(told_of(prompt.kind, reply.found, everything, searched, match_N))
    return told


def likeness_lines(queries: RunQueries, split: str) -> list[str]:
    """Return how many nonsense texts and how many captions are told from neutral texts."""
    answered = [text for text in NONSENSE if is_answered(queries, _query_of(text), split)]
    captions = [text for text in CAPTIONS if is_answered(queries, Query(text, None, rest=text), split)]
    segments = queries.segments(split)
    highest = {
        name: highest_cosines(segments, queries.embed(list(texts)))
        for name, texts in (("neutral", neutral_texts()), ("nonsense", NONSENSE), ("captions", CAPTIONS))
    }
    above = {name: int((cosines > highest["neutral"].max()).sum()) for name, cosines in highest.items()}
    return [
        f"nonsense, with --likeness: {len(answered)} of {len(NONSENSE)} texts have answers; aim: none, "
        f"{'MISSED' if answered else 'met'}",
        *(f'  "{text}"' for text in answered),
        f"captions of training as free words: {len(captions)} of {len(CAPTIONS)} have answers; aim: at least one, "
        f"{'met' if captions else 'MISSED'}",
        "highest cosines, median and largest: "
        + ", ".join(f"{name} {np.median(cosines):.3f}, {cosines.max():.3f}" for name, cosines in highest.items()),
        f"above the largest of the neutral texts: {above['nonsense']} nonsense texts, {above['captions']} captions",
    ]


def _query_of(text: str) -> Query | None:
    try:
        return parse_query(text)
    except ValueError:
        return None


def is_answered(queries: RunQueries, query: Query | None, split: str) -> bool:
    if query is None:
        return False
    try:
        reply = queries.ask(query, Asked(split, top=TOP, likeness=True))
    except ValueError:
        return False
    return bool(reply.answers)


if __name__ == "__main__":
    run_command(PROG, main)
