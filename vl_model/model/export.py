"""A run's towers as a folder that their stock library loads strictly, without anything of this project.

Adapters are merged into the weights, the learned temperature is written where the library looks for it, and a
transformers model's processor and tokenizer are copied along. ``lumbar_vl.json``, which no stock library reads, says
which studies the run has seen (`vl_model.model.lineage`). The pooling of a site's tiles stays behind, for which the
stock libraries have no place: an image's embedding is one tile's.
"""

from pathlib import Path

from runs.run_record import read_run_record
from vl_model.model.lineage import write_lineage
from vl_model.model.site_model import load_site_model
from vl_model.towers.model_names import name_of
from vl_model.towers.towers import save_towers
from workspace.whole_folders import whole_folder


def export_run(run: Path, folder: Path) -> str:
    """Write the merged towers of the finished run into `folder`; what its library calls them.

    Raises ValueError where the run is none or is not finished, has nothing to merge, or the folder is taken.
    """
    read_run_record(run)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"--export {folder}: exists already; name a new folder")
    model = load_site_model(run / "final")
    if model.settings.tune == "head":
        raise ValueError(
            f"--export: the towers of run {run.name!r} (--tune head) are those of {model.settings.model!r} itself; "
            "what it learned stands behind them, where the stock libraries have no place for it"
        )
    model.write_logit_scale()
    with whole_folder(folder) as partial:
        save_towers(model.towers, partial)
        write_lineage(partial, run / "final")
    return name_of(folder)
