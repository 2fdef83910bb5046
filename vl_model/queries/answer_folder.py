"""The folder of saved answers: pictures of all their sites, one sheet of the first ones, a table, and the question."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from data_prep.conversion.slice_frames import SliceKey, read_frames
from data_prep.geometry import Frame
from data_prep.sites import Site, View
from vl_model.queries.answer_sheet import draw_sheet, maker_of, sheet_sites
from vl_model.queries.evidence_picture import EvidencePicture, NoPicture, read_picture
from vl_model.queries.reply import Reply, reply_csv
from vl_model.queries.saved_question import MissingPicture, make_room, write_question
from vl_model.queries.search import Answer
from vl_model.queries.segment import Evidence, image_path
from workspace.whole_files import replacing

SHEET, TABLE = "answers.png", "answers.csv"
#: zlib's level. On noisy slices the files are 4 % smaller than those of Pillow's default (6), in 40 % of its time.
PNG_LEVEL = 3
#: Missing pictures that are listed one by one.
_LISTED = 5


@dataclass(frozen=True)
class _Shot:
    """One view of one site of an answer, which two files show."""

    answer: Answer
    site: Site
    evidence: Evidence

    @property
    def names(self) -> tuple[str, str]:
        """The names of the files with the slice and with the crop."""
        start = f"{self.answer.rank:02d}_{self.answer.study_id}_{self.site.key}_{self.evidence.view.value}"
        return f"{start}_slice.png", f"{start}_crop.png"

    @property
    def key(self) -> SliceKey:
        return self.answer.study_id, self.evidence.series_id, self.evidence.instance_number


def _to_stderr(words: str) -> None:
    print(words, file=sys.stderr)


def save_answers(
    reply: Reply,
    processed: Mapping[str, Path],
    folder: Path,
    overwrite: bool = False,
    say: Callable[[str], None] = _to_stderr,
) -> dict[int, tuple[Path, ...]]:
    """Write the slices and crops of all answers, each site in both views, with the sheet, the table and the question.

    Args:
        reply: the answers.
        processed: split or kept set -> its ``processed_data`` folder.
        folder: where the files are written; `make_room` tells which folders are refused.
        overwrite: whether answers to another question are replaced, and other files may stay beside these.
        say: is told which pictures are missing or have no letters and scale; their answers are saved without them.

    Returns:
        rank -> the files of that answer.

    Raises:
        SettingError: the folder holds what may not be replaced.
    """
    shots = list(_shots(reply))
    planned = [SHEET, TABLE, *(name for shot in shots for name in shot.names)]
    make_room(folder, reply, planned, overwrite)
    write_question(folder, reply, planned)

    frames = _frames(shots, processed, say)
    on_sheet = sheet_sites(reply.answers)
    pictures: dict[tuple[int, View], EvidencePicture | None] = {}
    files: dict[int, list[Path]] = {answer.rank: [] for answer in reply.answers}
    missing: dict[tuple[int, str], str] = {}
    for shot in shots:
        rank, segment, picture = shot.answer.rank, shot.answer.segment, None
        try:
            picture = read_picture(
                processed[segment], shot.answer.study_id, shot.evidence, frames[segment].get(shot.key)
            )
        except NoPicture as error:
            missing[rank, image_path(shot.answer.study_id, shot.evidence)] = str(error)
        else:
            files[rank] += _save_pictures(picture, shot, folder)
        if (rank, shot.site.key) in on_sheet:
            pictures[rank, shot.evidence.view] = picture

    _save(draw_sheet(reply, pictures), folder / SHEET)
    with replacing(folder / TABLE) as partial:
        partial.write_text(reply_csv(reply), encoding="utf-8")
    written = [SHEET, TABLE, *(path.name for paths in files.values() for path in paths)]
    lacking = [MissingPicture(*place, reason) for place, reason in missing.items()]
    write_question(folder, reply, written, lacking, complete=True)
    _say_missing(lacking, reply, say)
    return {rank: tuple(paths) for rank, paths in files.items()}


def _shots(reply: Reply) -> Iterator[_Shot]:
    for answer in reply.answers:
        for speaking in answer.sites:
            for evidence in speaking.evidence:
                yield _Shot(answer, speaking.site, evidence)


def _frames(
    shots: list[_Shot], processed: Mapping[str, Path], say: Callable[[str], None]
) -> dict[str, dict[SliceKey, Frame]]:
    """Return the known frames of the slices, by split or kept set."""
    wanted: dict[str, set[SliceKey]] = defaultdict(set)
    for shot in shots:
        wanted[shot.answer.segment].add(shot.key)
    frames = {}
    for segment, keys in wanted.items():
        try:
            frames[segment] = read_frames(processed[segment], keys)
        except ValueError as error:
            say(f"the pictures have no letters and no scale: {error}")
            frames[segment] = {}
    return frames


def _save_pictures(picture: EvidencePicture, shot: _Shot, folder: Path) -> list[Path]:
    paths = [folder / name for name in shot.names]
    for image, path in zip((picture.whole(), picture.crop()), paths, strict=True):
        _save(image, path)
    return paths


def _save(image: Image.Image, path: Path) -> None:
    with replacing(path) as partial:
        image.save(partial, format="PNG", compress_level=PNG_LEVEL)


def _say_missing(missing: list[MissingPicture], reply: Reply, say: Callable[[str], None]) -> None:
    segment_of = {answer.rank: answer.segment for answer in reply.answers}
    for one in missing[:_LISTED]:
        maker = maker_of(segment_of[one.rank])
        say(f"answer {one.rank} is saved without a picture: {one.image}: {one.reason}; run {maker} again")
    if len(missing) > _LISTED:
        say(f"{len(missing) - _LISTED} more pictures are missing")
