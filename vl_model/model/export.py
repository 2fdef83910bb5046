"""Export of a run's towers as a folder that their stock library loads strictly, without this project's code.

Adapters are merged into the weights, the learned logit scale is written where the library reads it, and a transformers
model's processor and tokenizer are copied along. ``lumbar_vl.json``, which stock libraries ignore, holds the run's
lineage (`vl_model.model.lineage`). The pooling of tiles is not exported, since the stock libraries have no counterpart:
an exported model embeds single tiles.
"""

from pathlib import Path

from runs.run_record import read_run_record
from vl_model.model.lineage import write_lineage
from vl_model.model.site_model_files import load_site_model
from vl_model.towers.model_names import model_name
from vl_model.towers.towers import save_towers
from workspace.setting_error import SettingError
from workspace.whole_folders import whole_folder


def export_run(run: Path, folder: Path, base: str | None = None) -> str:
    """Write the merged towers of a finished run into `folder`; return the model name of the folder.

    base: where the run's base lies now, if it has moved (`load_site_model`).

    Raises ValueError if there is no such finished run, if it has no towers of its own, or if the folder is not empty.
    """
    read_run_record(run)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise SettingError("export", f"'{folder}': already exists; name a new folder")
    model = load_site_model(run / "final", base)
    if model.settings.tune == "head":
        raise SettingError(
            "export",
            f"'{folder}': run {run.name!r} was trained with tune 'head', so that its towers are those of "
            f"{model.settings.model!r}, unchanged; export a run with another tune",
        )
    model.write_logit_scale()
    with whole_folder(folder) as partial:
        save_towers(model.towers, partial)
        write_lineage(partial, run / "final", model.settings)
    return model_name(folder)
