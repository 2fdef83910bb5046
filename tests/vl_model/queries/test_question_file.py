"""The file of questions: what it may hold, and what it must not do to the machine."""

from pathlib import Path

import pytest

from vl_model.queries.question_file import MAX_BYTES, read_questions

BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "questions.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_names_and_questions_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "\ufeff# a comment\nb: no stenosis\na: any(canal) >= moderate; top 20\n'no': severe\n")
    assert list(read_questions(path).items()) == [
        ("b", "no stenosis"),
        ("a", "any(canal) >= moderate; top 20"),
        ("no", "severe"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("{}", "is empty"),
        ("a\n", "expected lines such as"),
        ("- a\n- b\n", "expected lines such as"),
        ("a: x\na: y\n", "'a' occurs twice"),
        ("a: x\nA: y\n", "'a' and 'A' differ in upper and lower case alone"),
        ("summary: x\n", "'summary' cannot be the name of a table"),
        ("../x: y\n", "'../x' cannot be the name of a table"),
        ("=cmd: y\n", "'=cmd' cannot be the name of a table"),
        (BOMB, "line 1: is a list or a mapping"),
        ("a: &a x\nb: *a\n", "line 2: is an alias"),
        ("a: x\n" + "b: " + "[" * 50_000, "line 2: is a list or a mapping"),
        ("? [a, b]\n: c\n", "line 1: is a list or a mapping"),
        ("a: x\n---\nb: y\n", "several documents"),
        ("a: {", "is a list or a mapping"),
        ("a: 'x", "is not YAML"),
        ("a: \x00", "is not YAML"),
        ("a" * (MAX_BYTES + 1), "is larger than 1,000,000 bytes"),
        ("".join(f"n{number}: x\n" for number in range(1001)), "has 1001 questions; at most 1000"),
    ],
)
def test_other_files_are_refused_with_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"questions\.yaml") as error:
        read_questions(written(tmp_path, text))
    assert said in str(error.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be read"):
        read_questions(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not YAML"):
        read_questions(tmp_path / "binary.yaml")
