"""What a run writes for its readers: record, curves, model card and upload."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from huggingface_hub import CommitOperationAdd
from PIL import Image

from runs.provenance import git_state, versions
from tests.training_runs import REPOSITORY, Train, metrics
from vl_model.model.hub import check_repository, push, without_paths
from vl_model.model.model_card import model_card
from vl_model.model.settings import ModelSettings
from vl_model.model.site_model import build_site_model
from vl_model.model.site_model_files import base_sha256, save_site_model

SHORT = ["--max_train_steps", "4", "--per_device_train_batch_size", "10", "--evaluation_steps", "2"]


def test_a_run_writes_its_record_its_curves_and_its_card(
    train: Train, tiny_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert train("recorded", *SHORT, "--push_to_hub", "somebody/lumbar") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("held-out evaluation took ") and lines[-2].endswith(" of the training")
    assert lines[-1].startswith("somebody/lumbar: not pushed (") and "pushes it later" in lines[-1]
    run, logs = (tiny_root / "train" / kind / "recorded" for kind in ("checkpoints", "logs"))
    record = json.loads((run / "run.json").read_text())
    assert record["finished"] and record["versions"] == versions() and record["git"] == git_state()
    assert record["device"] == "cpu" and record["processes"] == record["processes_a_machine"] == record["threads"] == 1
    assert "root" not in record["settings"] and record["settings"]["max_train_steps"] == 4
    seconds = [row["evaluation_seconds"] for row in metrics(tiny_root, "recorded")]
    assert [bool(value) for value in seconds] == [False, True, False, True]
    with Image.open(logs / "training.png") as curves:
        assert curves.width > 1000 and len(set(curves.convert("L").tobytes())) > 50
    assert not list(logs.glob(".*"))
    assert train("recorded", *SHORT, "--push_to_hub", "somebody/lumbar", "--resume_from_checkpoint", "latest") == 0
    assert "somebody/lumbar: not pushed (" in capsys.readouterr().out.splitlines()[-1]
    card = (run / "final" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: peft\n") and "weights of a local folder" in card
    assert record["dataset_fingerprint"] in card and "- held-out folds: 0\n" in card
    assert str(tiny_root) not in card and "/tmp" not in card


def test_the_card_of_a_fully_tuned_model_names_its_base() -> None:
    card = {"tune": "full", "model": "ViT-B-16", "pretrained": "openai", "preprocessing": {"image_size": 224}}
    card["preprocessing"]["view_mm"] = 50.0
    text = model_card(card)
    assert "A complete CLIP model, trained from `ViT-B-16` (`openai`)" in text and "224 x 224 pixels, the 50 mm" in text
    assert "None" not in text
    text = model_card(card | {"model": "hf:/a/folder", "pretrained": None})
    assert "library_name: transformers\n" in text and "weights of a local folder" in text and "/a/folder" not in text
    text = model_card(card | {"model": "hf:google/medsiglip-448", "pretrained": None, "tune": "head"})
    assert "A residual linear layer on the frozen towers of `hf:google/medsiglip-448`" in text


class Hub:
    """A hub's client with the two methods that `push` calls. `received`: the files of the commit, by name."""

    received: ClassVar[dict[str, bytes]] = {}

    def create_repo(self, repository: str, private: bool, exist_ok: bool) -> None:
        assert repository == "somebody/lumbar" and private and exist_ok

    def create_commit(
        self, repository: str, operations: list[CommitOperationAdd], commit_message: str
    ) -> SimpleNamespace:
        assert repository == "somebody/lumbar" and commit_message
        for operation in operations:
            with operation.as_file() as file:
                self.received[operation.path_in_repo] = file.read()
        return SimpleNamespace(repo_url="hub/somebody/lumbar")


@pytest.mark.parametrize(
    ("family", "tune"), [("open_clip", "lora"), ("CLIP", "lora"), ("CLIP", "full"), ("open_clip with BERT", "full")]
)
def test_uploaded_files_contain_no_local_paths(
    family: str, tune: str, family_base: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vl_model.model.hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "received", {})
    base = family_base(family)
    folder = Path(base.partition(":")[2])
    model, final = build_site_model(ModelSettings(base, tune=tune)), tmp_path / "final"
    save_site_model(model, final, {"steps": 3})
    assert push(final, "somebody/lumbar") == "pushed to hub/somebody/lumbar"
    assert Hub.received.keys() == {path.name for path in final.iterdir()}
    assert not [name for name, content in Hub.received.items() if str(folder.parent).encode() in content]
    uploaded, local = (
        json.loads(text) for text in (Hub.received["site_model.json"], (final / "site_model.json").read_text())
    )
    assert uploaded["model"] == base.partition(":")[0] + f":{folder.name}" and local["model"] == base
    assert uploaded["base_sha256"] == base_sha256(model) and (tune == "full" or len(uploaded["base_sha256"]) == 64)
    assert uploaded | {"model": base} == local
    weights = [name for name in Hub.received if name.endswith(".safetensors")]
    assert len(weights) == 2 and all(Hub.received[name] == (final / name).read_bytes() for name in weights)


def test_a_weights_file_is_named_without_its_folder() -> None:
    named = without_paths({"model": "ViT-B-16-quickgelu", "pretrained": "/home/me/vit.safetensors"})
    assert named == {"model": "ViT-B-16-quickgelu", "pretrained": "vit.safetensors"}
    for model, pretrained in (("ViT-B-16", "openai"), ("hf:google/medsiglip-448", None), ("hf-hub:me/clip", None)):
        card = {"model": model, "pretrained": pretrained}
        assert without_paths(card) == card


def test_the_git_commit_is_recorded_only_of_a_checkout(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *settings, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert git_state(tmp_path) is None
    git("init", "--quiet")
    assert git_state(tmp_path) is None  # no commit yet
    (tmp_path / "code.py").write_text("1")
    git("add", "code.py")
    git("commit", "--quiet", "-m", "first")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "code.py").write_text("2")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": True}
    (tmp_path / "inside").mkdir()
    assert git_state(tmp_path / "inside") is None  # a folder inside another checkout
    assert git_state(REPOSITORY / "vl_model") is None


def test_an_unreachable_hub_only_prevents_the_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert push(tmp_path, "somebody/lumbar").startswith("somebody/lumbar: not pushed (")
    with pytest.raises(ValueError, match=r"push_to_hub 'a b': is not a repository's name"):
        check_repository("a b")
