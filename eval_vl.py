"""Evaluate a run on its held-out studies, and predict the test split.

    python eval_vl.py --root DATA --run first
    python eval_vl.py --root DATA --run lora --compare base
    python eval_vl.py --root DATA --run lora --solution truth.csv

Embeds both splits once, fits both heads on the training studies and calibrators on the held-out ones (cross-fitted by
study), and writes ``report.html``, ``report.json``, ``predictions.csv`` and, where there is a test split,
``submission.csv`` into ``<root>/train/logs/<run>/``; embeddings and heads go to ``<root>/train/checkpoints/<run>/``.
`--solution` evaluates nothing: it scores that submission against a table of truths. Research use only.
"""

if __name__ == "__main__":
    from workspace.interrupts import end_at_ctrl_c

    end_at_ctrl_c()  # until run_command heeds it: the imports take their time

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import NonNegativeInt, PositiveInt

from workspace.cli import SettingsParser, run_command, settings_of
from workspace.layout import DataRoot, Split, data_root

if TYPE_CHECKING:
    from data_prep.conversion.pairs import Dataset
    from runs.run_record import RunRecord
    from vl_model.data.site_table import SiteTable
    from vl_model.evaluation.cross_fitting import HeldOut
    from vl_model.evaluation.embeddings import Embeddings, TextEmbeddings
    from vl_model.evaluation.grader import Grader, HeadName

PROG = "eval_vl.py"
REPORT_SCHEMA_VERSION = 1


def settings_parser() -> SettingsParser:
    parser = SettingsParser(PROG, __doc__)
    add = parser.add_argument
    add("--root", type=str | None, help="the data root; else $LUMBAR_ROOT, else data/lumbarspine")
    add("--run", type=str, default="default", help="the run's name")
    add(
        "--head",
        choices=("auto", "zero_shot", "linear_probe"),
        default="auto",
        help="of the submission; auto: the better",
    )
    add("--compare", type=str | None, help="another run, evaluated before, to compare with on the same studies")
    add("--solution", type=str | None, help="only score the run's submission.csv against this table of truths")
    add("--batch_size", type=PositiveInt, default=64, help="sites embedded at a time")
    add("--seed", type=NonNegativeInt, default=0, help="of the cross-fitting groups and the bootstrap")
    return parser


def main() -> None:
    settings = settings_of(settings_parser().parse_args())
    root = data_root(settings["root"])
    if settings["solution"]:
        score_against(root.logs(settings["run"]) / "submission.csv", Path(settings["solution"]))
        return
    material = read_material(root, settings["run"])
    theirs = root.logs(settings["compare"]) / "predictions.csv" if settings["compare"] else None

    # scikit-learn and pandas take a second or two, torch ten: the first only now, the second only where it is needed.
    from vl_model.evaluation.cross_fitting import better_head, fit_grader, fit_heads, predict_held_out, split_studies
    from vl_model.evaluation.predictions import read_predictions, write_predictions
    from vl_model.evaluation.report_content import compare, measure
    from workspace.json_files import plain

    other = read_predictions(theirs) if theirs else None
    split = split_studies(material.labels, material.fold_of, material.run.held_out_folds)
    embeddings, texts = embed(root, settings["run"], material, settings["batch_size"])

    heads = fit_heads(split.train, embeddings["train"], texts.text_SCD, texts.logit_scale)
    held_out = predict_held_out(heads, split, embeddings["train"], settings["seed"])
    best = better_head(held_out) if settings["head"] == "auto" else settings["head"]
    grader = fit_grader(heads, split, embeddings["train"], best)
    report = {
        "schema_version": REPORT_SCHEMA_VERSION,
        "run": settings["run"],
        "head": best,
        "fingerprint": embeddings["train"].fingerprint,
        "held_out_folds": material.run.held_out_folds,
        "training_studies": len(split.train.study_ids),
        "settings": {name: value for name, value in settings.items() if name != "root"},
        "training_settings": material.run.settings,
        **measure(held_out, settings["seed"]),
        "comparison": compare(held_out, settings["compare"], other, settings["seed"]) if other else None,
    }

    logs = root.logs(settings["run"])
    logs.mkdir(parents=True, exist_ok=True)
    save_grader(root, settings["run"], grader)
    write_predictions(logs / "predictions.csv", held_out)
    write_pictured_report(logs, plain(report), held_out, best, material.datasets["train"], root)
    print_summary(plain(report))
    print(f"report      {logs / 'report.html'}")
    if "test" in material.datasets:
        submit(logs / "submission.csv", root, material.datasets["test"], embeddings["test"], grader)
    else:
        print("submission  none: there is no test split (prepare_data.py --split test makes it)")


@dataclass(frozen=True)
class Material:
    """What is evaluated, checked: the run, the splits that are there, every known label, and each study's fold."""

    run: "RunRecord"
    datasets: "dict[Split, Dataset]"
    labels: "SiteTable"
    fold_of: dict[int, int]


def read_material(root: DataRoot, run: str) -> Material:
    """Raises ValueError where the run is not finished, or was trained on other data than lies there now."""
    from data_prep.conversion.pairs import read_dataset
    from runs.run_record import read_run_record
    from vl_model.data.site_table import full_table, site_table

    record = read_run_record(root.run(run))
    datasets: dict[Split, Dataset] = {"train": read_dataset(root.processed("train"))}
    if (root.processed("test") / "dataset.json").is_file():
        datasets["test"] = read_dataset(root.processed("test"))
    train = datasets["train"]
    if record.dataset_fingerprint != train.fingerprint:
        raise ValueError(
            f"--run {run!r} was trained on another data set ({record.dataset_fingerprint[:12]}) than lies in "
            f"{root.processed('train')} ({train.fingerprint[:12]}): its held-out studies may not be held out there"
        )
    shown = site_table((pair.study_id, pair.site, pair.severity) for pair in train.pairs)
    return Material(
        record, datasets, unseen_labels(root, train, full_table(sorted(train.fold_of), shown)), train.fold_of
    )


def unseen_labels(root: DataRoot, dataset: "Dataset", table: "SiteTable") -> "SiteTable":
    """`table` with the labels of sites that no image shows: they count in the metric as all others do.

    dataset.json knows labels of what is imaged only; train.csv is asked for the rest where it is still the same.
    """
    from data_prep.studies.tables import read_train_tables
    from vl_model.data.site_table import full_table, site_table

    if not root.table("train.csv").is_file():
        return table
    tables = read_train_tables(root.dataset)
    if tables.hashes.get("train.csv") != dataset.metadata.get("hashes", {}).get("train.csv"):
        return table
    known = site_table(
        (study, site, grade) for study, grades in tables.severities.items() for site, grade in grades.items()
    )
    return full_table(table.study_ids, known)


def embed(
    root: DataRoot, run: str, material: Material, batch_size: int
) -> "tuple[dict[Split, Embeddings], TextEmbeddings]":
    """Embeddings of every split and of the prompts: read where they are current, else computed and kept."""
    from data_prep.sites import SITES, Severity
    from prompts.render import zero_shot_prompts
    from vl_model.evaluation.embeddings import fingerprint, prompts_fingerprint, read_embeddings, read_text_embeddings

    folder = root.run(run) / "embeddings"
    prompts = [[zero_shot_prompts(site, severity) for severity in Severity] for site in SITES]
    expected = {
        split: fingerprint(root.run(run) / "final", data.fingerprint) for split, data in material.datasets.items()
    }
    text_expected = {"checkpoint": expected["train"]["checkpoint"], "prompts": prompts_fingerprint(prompts)}
    try:
        found = {split: read_embeddings(folder / split, expected[split]) for split in material.datasets}
        return found, read_text_embeddings(folder / "prompts", text_expected)
    except ValueError:
        return compute_embeddings(root, run, material, batch_size, expected, text_expected, prompts)


def compute_embeddings(
    root: DataRoot,
    run: str,
    material: Material,
    batch_size: int,
    expected: dict[Split, dict[str, str]],
    text_expected: dict[str, str],
    prompts: list[list[list[str]]],
) -> "tuple[dict[Split, Embeddings], TextEmbeddings]":
    """Load the model and embed everything."""
    import torch

    from data_prep.conversion.crops import open_crops
    from runs.launch import threads_per_process
    from vl_model.data.site_rows import group_sites
    from vl_model.evaluation.embed import embed_ensembles, embed_rows
    from vl_model.evaluation.embeddings import Embeddings, TextEmbeddings, write_embeddings, write_text_embeddings
    from vl_model.model.site_model_files import load_site_model

    torch.set_num_threads(threads_per_process())
    model = load_site_model(root.run(run) / "final").to("cuda" if torch.cuda.is_available() else "cpu")
    folder = root.run(run) / "embeddings"
    texts = TextEmbeddings(embed_ensembles(model, prompts), float(model.logit_scale()), text_expected)
    write_text_embeddings(folder / "prompts", texts)
    embeddings = {}
    for split, dataset in material.datasets.items():
        rows, crops = group_sites(dataset.pairs), open_crops(root.processed(split))
        image_ND = embed_rows(model, rows, crops, batch_size, f"embedding {split}")
        embeddings[split] = Embeddings(rows, image_ND, expected[split])
        write_embeddings(folder / split, embeddings[split])
    return embeddings, texts


def save_grader(root: DataRoot, run: str, grader: "Grader") -> None:
    from vl_model.evaluation.grader import write_grader

    write_grader(root.run(run) / "heads", grader)


def write_pictured_report(
    logs: Path, report: dict[str, Any], held_out: "HeldOut", head: "HeadName", dataset: "Dataset", root: DataRoot
) -> None:
    from data_prep.conversion.crops import open_crops
    from vl_model.evaluation.cases import choose_cases
    from vl_model.evaluation.report import write_report

    write_report(logs, report, choose_cases(held_out, head, dataset.pairs), open_crops(root.processed("train")))


def submit(path: Path, root: DataRoot, dataset: "Dataset", embeddings: "Embeddings", grader: "Grader") -> None:
    """25 metric-optimal rows for every study that the test tables name."""
    from data_prep.sites import SITES
    from vl_model.data.site_table import full_table, site_table
    from vl_model.evaluation.submission import write_submission

    table = full_table(dataset.study_ids, site_table([]))
    prob_SX3 = grader.predict_proba(table, embeddings, "metric_optimal").reshape(-1, len(SITES), 3)
    write_submission(path, dataset.study_ids, prob_SX3, root.table("sample_submission.csv"))
    print(f"submission  {path} ({len(dataset.study_ids)} studies, {grader.best.replace('_', ' ')})")


def score_against(submission: Path, solution: Path) -> None:
    """Print the metric of a submission. Raises ValueError where one of the two cannot be read."""
    for path, maker in ((submission, "eval_vl.py writes it where there is a test split"), (solution, "--solution")):
        if not path.is_file():
            raise ValueError(f"{path}: no such file ({maker})")
    from vl_model.evaluation.submission import score_submission

    metric = score_submission(submission, solution)
    print(f"{'submission':34s}{metric_line(metric.as_dict())}")


def print_summary(report: dict[str, Any]) -> None:
    """The metric and its parts: the constant, and both heads as they would be submitted."""
    n = report["n"]
    print(f"{n['studies']} held-out studies, {n['rows']} graded sites; lower is better, 95 % interval over studies")
    print(f"{'':34s}{'score':>7}{'spinal':>9}{'foraminal':>11}{'subarticular':>14}{'any severe':>12}")
    print(f"{'constant':34s}{metric_line(report['constant_baseline'])}")
    for head, kinds in report["metric"].items():
        block = kinds["metric_optimal"]
        low, high = (x if x is not None else float("nan") for x in block["interval"]["score"])
        print(f"{head.replace('_', ' '):14s}{low:>8.3f} to {high:<8.3f}{metric_line(block)}")
    if report["comparison"]:
        run = report["comparison"]["run"]
        for head, block in report["comparison"]["heads"].items():
            score = block["difference"]["score"]
            value, low, high = (signed(x) for x in (score["value"], *score["interval"]))
            print(f"{head.replace('_', ' ')} minus {run}'s: {value} ({low} to {high})")


def signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def metric_line(metric: dict[str, Any]) -> str:
    names = (("score", 7), ("spinal", 9), ("foraminal", 11), ("subarticular", 14), ("any_severe", 12))
    return "".join(f"{'-' if metric[name] is None else format(metric[name], '.3f'):>{width}}" for name, width in names)


if __name__ == "__main__":
    run_command(PROG, main)
