"""The folder of saved answers: what is written, what is refused, and what is never touched."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.sites import Source
from prompts.parse import parse_query
from prompts.tree import Query
from tests.data_prep.conversion.slice_table import slice_row, write_slices
from tests.vl_model.queries.segments import make_parts
from vl_model.queries import answer_folder
from vl_model.queries.answer_folder import save_answers
from vl_model.queries.answer_sheet import draw_sheet, shortened, wrapped
from vl_model.queries.picture_marks import mark_font
from vl_model.queries.reply import Reply, reply_csv
from vl_model.queries.search import Answer, Bounds, search
from vl_model.queries.segment import Evidence, image_path
from workspace.setting_error import SettingError

TEXT = "canal stenosis at L4-L5 and severe left recess"
GREY = (90, 90, 90)


def asked(text: str = TEXT, top: int = 4) -> Reply:
    """Search random studies, whose evidence has boxes within 100 pixels."""
    segment = make_parts(studies=30).segment()
    query = parse_query(text)
    assert query.tree is not None
    found = search(query.tree, [segment], [segment], Bounds(top, least=0.0, seen=True))
    return Reply(query, "tiny", ("train",), {"train": segment.fingerprint}, found, found.answers)


def shots(answers: Sequence[Answer]) -> list[tuple[Answer, str, Evidence]]:
    return [(answer, site.site.key, one) for answer in answers for site in answer.sites for one in site.evidence]


@pytest.fixture
def reply() -> Reply:
    return asked()


@pytest.fixture
def processed(tmp_path: Path) -> dict[str, Path]:
    """The PNGs of the answers to the questions of these tests, each of one grey, and their places."""
    folder, rows = tmp_path / "processed_data", {}
    for answer, _, one in shots([*asked().answers, *asked("severe right recess").answers]):
        path = folder / image_path(answer.study_id, one)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (110, 120), GREY[0]).save(path)
        key = (answer.study_id, one.series_id, one.instance_number)
        rows[key] = slice_row(key, spacing=(1.0, 0.5), shape=(120, 110))
    write_slices(folder, list(rows.values()))
    return {"train": folder}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def question(folder: Path) -> dict:
    return json.loads((folder / "question.json").read_text())


def refused(reply: Reply, processed: dict[str, Path], folder: Path, overwrite: bool = False) -> str:
    """Return why a folder is refused, and check that nothing in it was touched."""
    before = {path: (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in folder.rglob("*")}
    with pytest.raises(SettingError) as error:
        save_answers(reply, processed, folder, overwrite)
    assert {path: (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in folder.rglob("*")} == before
    assert error.value.setting == "save"
    assert "\n" not in error.value.problem
    return error.value.problem


def test_all_sites_are_saved_in_both_views(reply: Reply, processed: dict[str, Path], tmp_path: Path) -> None:
    assert any(len(answer.sites) > 1 for answer in reply.answers)
    folder = tmp_path / "new" / "out"
    files = save_answers(reply, processed, folder, say=pytest.fail)
    expected: dict[int, list[str]] = {answer.rank: [] for answer in reply.answers}
    for answer, site, one in shots(reply.answers):
        start = f"{answer.rank:02d}_{answer.study_id}_{site}_{one.view.value}"
        expected[answer.rank] += [f"{start}_slice.png", f"{start}_crop.png"]
        with Image.open(folder / f"{start}_slice.png") as drawn:
            assert drawn.height / drawn.width == pytest.approx(120 / 55, rel=0.01)  # in millimetres
            assert GREY in {colour for _, colour in drawn.getcolors(1 << 16)}  # type: ignore[union-attr]
        with Image.open(folder / f"{start}_crop.png") as crop:
            x0, y0, x1, y1 = one.box
            proportion = (y1 - y0) / ((x1 - x0) * 0.5)
            assert max(crop.size) == 384
            assert crop.height / crop.width == pytest.approx(proportion, rel=0.05)
    assert files == {rank: tuple(folder / name for name in of_rank) for rank, of_rank in expected.items()}
    assert (folder / "answers.csv").read_text() == reply_csv(reply)
    own = question(folder)
    assert names(folder) == {*own["files"], "question.json"}
    assert set(own["files"]) == {"answers.png", "answers.csv", *(name for some in expected.values() for name in some)}
    assert (own["text"], own["question"]["line"], own["question"]["run"]) == (TEXT, reply.line, "tiny")
    assert own["question"]["fingerprints"] == {"train": {"data": "d", "model": "m", "heads": "h", "embeddings": "e"}}
    assert (own["complete"], own["missing_pictures"]) == (True, [])
    with Image.open(folder / "answers.png") as sheet:
        assert GREY in {colour for _, colour in sheet.getcolors(1 << 20)}  # type: ignore[union-attr]


def test_the_same_question_is_saved_again(reply: Reply, processed: dict[str, Path], tmp_path: Path) -> None:
    first = save_answers(reply, processed, tmp_path / "out")
    (tmp_path / "out" / "my notes.txt").write_text("mine")
    next(iter(first.values()))[0].unlink()
    reworded = replace(reply, query=replace(reply.query, text=TEXT.upper()))
    assert save_answers(reworded, processed, tmp_path / "out") == first
    assert (tmp_path / "out" / "my notes.txt").read_text() == "mine"
    assert all(path.is_file() for paths in first.values() for path in paths)


def test_another_question_needs_overwrite(reply: Reply, processed: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    save_answers(reply, processed, folder)
    (folder / "mine.png").write_text("mine")
    (folder / "01_notes_crop.png").write_text("mine")
    other = asked("severe right recess")
    assert "run 'tiny' to another question (any(canal, L4-L5)" in refused(other, processed, folder)
    assert "--overwrite" in refused(other, processed, folder)
    changed = replace(reply, fingerprints={"train": {"data": "other"}})
    assert "from before its model or data changed" in refused(changed, processed, folder)
    assert "another run (run 'tiny')" in refused(replace(reply, run="big"), processed, folder)

    files = save_answers(other, processed, folder, overwrite=True)
    own = question(folder)
    assert names(folder) == {*own["files"], "question.json", "mine.png", "01_notes_crop.png"}
    assert {path.name for paths in files.values() for path in paths} < set(own["files"])
    assert own["question"]["line"] == other.line
    assert (folder / "mine.png").read_text() == (folder / "01_notes_crop.png").read_text() == "mine"


def test_a_folder_of_other_files_is_refused(reply: Reply, processed: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / ".DS_Store").write_text("")
    (folder / "thesis.tex").write_text("mine")
    (folder / "z").mkdir()
    assert "holds 'thesis.tex' and 1 more" in refused(reply, processed, folder)
    save_answers(reply, processed, folder, overwrite=True)
    assert {"thesis.tex", "z", ".DS_Store", "answers.png"} < names(folder)

    for name in ("answers.png", "answers.csv"):
        other = tmp_path / name.replace(".", "_")
        other.mkdir()
        (other / name).write_text("mine")
        assert f"holds a file {name} that is not listed" in refused(reply, processed, other, overwrite=True)
    (tmp_path / "file").write_text("mine")
    assert "is not a folder" in refused(reply, processed, tmp_path / "file", overwrite=True)


@pytest.mark.parametrize(
    "name", ["../outside.png", "/etc/hostname", "sub/answers.png", "mine.png", "question.json", "", 7, None]
)
def test_a_list_of_foreign_files_is_refused(
    reply: Reply, processed: dict[str, Path], tmp_path: Path, name: object
) -> None:
    folder = tmp_path / "out"
    save_answers(reply, processed, folder)
    (tmp_path / "outside.png").write_text("mine")
    (folder / "mine.png").write_text("mine")
    own = question(folder)
    (folder / "question.json").write_text(json.dumps({**own, "files": [*own["files"], name]}))
    assert f"lists {name!r}, which --save never writes" in refused(reply, processed, folder, overwrite=True)
    assert (tmp_path / "outside.png").read_text() == "mine"


def test_links_and_folders_among_the_files_are_refused(
    reply: Reply, processed: dict[str, Path], tmp_path: Path
) -> None:
    folder, target = tmp_path / "out", tmp_path / "target"
    paths = [path for some in save_answers(reply, processed, folder).values() for path in some]
    target.write_text("mine")
    for path in (paths[0], folder / "answers.png", folder / "question.json"):
        kept = path.read_bytes()
        path.unlink()
        path.symlink_to(target)
        assert f"{path.name} in it is a link" in refused(reply, processed, folder, overwrite=True)
        path.unlink()
        path.mkdir()
        assert f"{path.name} in it is no file" in refused(reply, processed, folder, overwrite=True)
        path.rmdir()
        path.write_bytes(kept)
    assert target.read_text() == "mine"
    save_answers(reply, processed, folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema_version": 1}', "[" * 100_000])
def test_a_damaged_question_is_refused(reply: Reply, processed: dict[str, Path], tmp_path: Path, content: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "question.json").write_text(content)
    assert "cannot tell which files" in refused(reply, processed, tmp_path / "out", overwrite=True)


def test_what_an_interruption_leaves_is_known_to_be_its_own(
    reply: Reply, processed: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(answer_folder, "draw_sheet", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            save_answers(reply, processed, folder)
    assert len(names(folder)) > 4
    assert not question(folder)["complete"]
    assert "to another question" in refused(asked("severe right recess"), processed, folder)
    save_answers(reply, processed, folder)
    assert names(folder) == {*question(folder)["files"], "question.json"}


def test_an_answer_without_its_png_is_saved_without_that_picture(
    reply: Reply, processed: dict[str, Path], tmp_path: Path
) -> None:
    of_first = [(site, one) for answer, site, one in shots(reply.answers) if answer.rank == 1]
    (_, missing), (_, damaged) = of_first[:2]
    images = [image_path(reply.answers[0].study_id, one) for one in (missing, damaged)]
    (processed["train"] / images[0]).unlink()
    (processed["train"] / images[1]).write_bytes((processed["train"] / images[1]).read_bytes()[:80])
    said: list[str] = []
    files = save_answers(reply, processed, tmp_path / "out", say=said.append)
    assert len(files[1]) == 2 * len(of_first) - 4
    assert all(
        len(files[answer.rank]) == 2 * sum(len(s.evidence) for s in answer.sites) for answer in reply.answers[1:]
    )
    assert said == [
        f"answer 1 is saved without a picture: {images[0]}: no such file; run prepare_data.py again",
        f"answer 1 is saved without a picture: {images[1]}: it cannot be read; run prepare_data.py again",
    ]
    own = question(tmp_path / "out")
    assert [one["image"] for one in own["missing_pictures"]] == images
    assert names(tmp_path / "out") == {*own["files"], "question.json"}
    with Image.open(tmp_path / "out" / "answers.png") as sheet:
        assert (201, 206, 214) in {colour for _, colour in sheet.getcolors(1 << 20)}  # type: ignore[union-attr]

    (processed["train"] / "slices.csv").unlink()
    said.clear()
    save_answers(reply, processed, tmp_path / "out", say=said.append)
    assert said[0].startswith("the pictures have no letters and no scale: ")


def test_a_sheet_of_any_text_is_drawn_without_a_warning(reply: Reply) -> None:
    texts = ["", "\x1b[31m\x00\u202e\u200b\ud800 severe", "严重狭窄 😀 שלום", "$\\frac{a}$ <b>", "w" * 1000, "a " * 500]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in texts:
            query = Query(text, None, rest=text, notes=(text,) * 2)
            assert draw_sheet(replace(reply, query=query, found=None), {}).width == 2140
        plain, escapes = (draw_sheet(replace(reply, query=Query(t, None)), {}) for t in ("a b", "a\x07\u202e \nb"))
        assert plain.tobytes() == escapes.tobytes()
        assert draw_sheet(replace(reply, answers=()), {}).height < 500


def test_words_stay_within_their_width() -> None:
    random, font = np.random.default_rng(0), mark_font(20)
    for _ in range(50):
        words = ["".join(random.choice(list("iWm严…-"), random.integers(1, 60))) for _ in range(random.integers(1, 20))]
        lines = wrapped(" ".join(words), font, 300, 3)
        assert len(lines) <= 3
        assert all(font.getlength(line) <= 300 for line in lines)
        whole = wrapped(" ".join(words), font, 300, 100)
        assert lines == whole or lines[-1].endswith("…")
        assert shortened(words[0], font, 1e6) == words[0]


def test_the_sheet_tells_the_source_and_a_view_without_image(reply: Reply) -> None:
    """Each of these changes something on the sheet; a view that no image shows differs from a missing picture."""
    answer = reply.answers[0]
    first = answer.sites[0]
    other_source = Source.ATLAS if first.evidence[0].source is not Source.ATLAS else Source.LOCATED
    changed = [
        replace(answer, probability=0.123),
        replace(answer, probability=None),
        replace(answer, seen=not answer.seen),
        replace(answer, matches=not answer.matches),
        replace(answer, sites=(replace(first, severity=None), *answer.sites[1:])),
        replace(answer, sites=(replace(first, evidence=()), *answer.sites[1:])),
        replace(answer, sites=(first,)),
        replace(answer, sites=(replace(first, evidence=(replace(first.evidence[0], source=other_source),)),)),
    ]
    sheets = {draw_sheet(replace(reply, answers=(one,)), {}).tobytes() for one in changed}
    assert len(sheets) == len(changed)
