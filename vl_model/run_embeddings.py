"""The embeddings of a run: of a data set, of studies that were just converted, and of the zero-shot prompts.

Those of the splits, of kept studies and of the prompts are written into the run's folder, and computed again only if
they are of other weights, another data set or other prompts. torch is imported only for that.
"""

from pathlib import Path

from data_prep.conversion.crops import open_crops
from data_prep.conversion.folder_batches import StudyBatch
from data_prep.conversion.pairs import Dataset
from data_prep.sites import SITES, Severity
from prompts.render import zero_shot_prompts
from vl_model.data.site_rows import group_sites
from vl_model.evaluation.embeddings import (
    Embeddings,
    TextEmbeddings,
    prompts_fingerprint,
    read_embeddings,
    read_text_embeddings,
    write_embeddings,
    write_text_embeddings,
)
from vl_model.loaded_run import LoadedRun
from workspace.tidying import keeping


def embed_dataset(
    run: LoadedRun, dataset: Dataset, processed: Path, batch_size: int, label: str = "embedding"
) -> Embeddings:
    """Compute the embeddings of all sites of a data set in `processed`, with a progress bar of this label.

    Raises ValueError if its crops are not such as the run was made for.
    """
    from vl_model.evaluation.embed import embed_rows

    run.check_crops(processed)
    rows = group_sites(dataset.pairs)
    image_ND, weight_NV = embed_rows(run.model, rows, open_crops(processed), batch_size, label, run.crops)
    made_from = {"checkpoint": run.checkpoint, "dataset": dataset.fingerprint}
    return Embeddings(rows, image_ND, made_from, weight_NV)


def kept_embeddings(run: LoadedRun, name: str, dataset: Dataset, processed: Path, batch_size: int) -> Embeddings:
    """Return the embeddings of a data set, which are kept under `name`: computed only if they are not current."""
    expected = {"checkpoint": run.checkpoint, "dataset": dataset.fingerprint}
    kept = run.folder / "embeddings" / name
    try:
        return read_embeddings(kept, expected)
    except ValueError:
        embeddings = embed_dataset(run, dataset, processed, batch_size, f"embedding {name}")
    with keeping(kept):
        write_embeddings(kept, embeddings)
    return embeddings


def embed_batch(run: LoadedRun, batch: StudyBatch, batch_size: int) -> Embeddings:
    """Compute the embeddings of all sites of converted studies."""
    from vl_model.evaluation.embed import embed_rows

    rows = group_sites(batch.pairs)
    image_ND, weight_NV = embed_rows(run.model, rows, batch.crop_N3HW, batch_size, None, run.crops)
    return Embeddings(rows, image_ND, {"checkpoint": run.checkpoint}, weight_NV)


def prompt_embeddings(run: LoadedRun) -> TextEmbeddings:
    """Return the embeddings of the zero-shot prompts, from the run's folder if they are current."""
    prompts = [[zero_shot_prompts(site, severity) for severity in Severity] for site in SITES]
    expected = {"checkpoint": run.checkpoint, "prompts": prompts_fingerprint(prompts)}
    kept = run.folder / "embeddings" / "prompts"
    try:
        return read_text_embeddings(kept, expected)
    except ValueError:
        from vl_model.evaluation.embed import embed_ensembles_and_wordings

        text_SCD, wording_WSCD = embed_ensembles_and_wordings(run.model, prompts)
        texts = TextEmbeddings(text_SCD, float(run.model.logit_scale()), expected, wording_WSCD)
    with keeping(kept):
        write_text_embeddings(kept, texts)
    return texts
