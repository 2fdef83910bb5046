"""One site -> one embedding: towers, pooling over tiles and the logit scale, with their files.

A finished run's ``final/`` holds ``site_model.json`` (what the model is made of), ``site_model.safetensors`` (pooling,
logit scale and, for ``--tune head``, the image map) and either the adapters (`vl_model.model.lora`, without their
base), or the whole towers as a folder of their own library (``--tune full``), or neither (``--tune head``).

Dimensions: B sites, T tiles a site, N tiles in all, K texts, L tokens, D embedding, H and W pixels.
"""

import hashlib
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from data_prep.conversion.crops import VIEW_MM
from vl_model.model.lora import add_adapters, base_state, load_adapters, merge_adapters, save_adapters
from vl_model.model.model_card import CARD, model_card
from vl_model.model.pooling import TilePooling
from vl_model.model.residual_head import ImageMap
from vl_model.model.settings import LoraSettings, ModelSettings
from vl_model.towers.model_names import folder_of, has_own_weights, name_of
from vl_model.towers.towers import load_towers, save_towers
from workspace.json_files import read_object
from workspace.whole_folders import whole_folder

if TYPE_CHECKING:
    from vl_model.towers.towers import Towers

SCHEMA_VERSION = 1
HEAD = "site_model.safetensors"

#: exp(4.605) = 100: the bound that CLIP was trained with (Radford et al. 2021, section 2.5).
MAX_LOG_SCALE = math.log(100)
START_LOG_SCALE = math.log(1 / 0.07)
#: Of SigLIP's loss. Zhai et al. 2023, section 3.2: so negative that the many negatives of the first step cost little.
START_BIAS = -10.0


class LogitScale(nn.Module):
    """The learned inverse temperature, at most 100. A module, so that wrappers see its parameter."""

    def __init__(self, log_scale: float = START_LOG_SCALE) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(float(log_scale)))

    def forward(self) -> Tensor:
        return self.log_scale.exp()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keep the parameter within its bound, after each step: a clamp in `forward` would stop its gradient there."""
        self.log_scale.clamp_(max=MAX_LOG_SCALE)


class LogitBias(nn.Module):
    """SigLIP's learned bias: of use in training alone, so no finished run keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(START_BIAS))

    def forward(self) -> Tensor:
        return self.bias


class SiteModel(nn.Module):
    """Towers, pooling and logit scale; its `forward` is the one call of a training step, so that DDP's hooks run."""

    def __init__(self, towers: "Towers", settings: ModelSettings) -> None:
        super().__init__()
        self.settings = settings
        self.towers = towers
        self.pooling = TilePooling(towers.embed_dim)
        self.image_map = ImageMap(towers.embed_dim) if settings.tune == "head" else None
        self.logit_scale = LogitScale(float(towers.clip.logit_scale.detach()))
        towers.clip.logit_scale.requires_grad_(False)  # ours takes its place, and is written back when saved
        if getattr(towers.clip, "logit_bias", None) is not None:
            towers.clip.logit_bias.requires_grad_(False)  # a softmax over captions does not see it

        self.logit_bias: LogitBias | None = None

    def add_logit_bias(self) -> None:
        """For ``--loss siglip``, before the first step."""
        self.logit_bias = LogitBias().to(self.device)

    @property
    def learns_text(self) -> bool:
        return self.settings.tune == "full" or (self.settings.tune == "lora" and self.settings.lora.towers == "both")

    @property
    def learning_weights(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    @property
    def device(self) -> torch.device:
        return self.pooling.query_D.device

    @property
    def base_sha256(self) -> str | None:
        """Of the frozen base that the adapters or the head belong to; None for ``--tune full``, which keeps no base."""
        return None if self.settings.tune == "full" else state_sha256(base_state(self.towers.clip))

    def forward(
        self,
        tiles_BT3HW: Tensor,
        mask_BT: Tensor,
        token_KL: Tensor | None,
        dropout_seeds: tuple[int | None, int | None] = (None, None),
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """-> image_BD, text_KD (None without tokens), the inverse temperature and the bias (None without one).

        dropout_seeds: of what is dropped in texts, and in images; None: torch's generator goes on.
        """
        text_seed, image_seed = dropout_seeds
        if text_seed is not None:
            torch.manual_seed(text_seed)
        text_KD = None if token_KL is None else self.towers.encode_texts(token_KL)
        if image_seed is not None:
            torch.manual_seed(image_seed)
        bias = None if self.logit_bias is None else self.logit_bias()
        return self._embed_sites(tiles_BT3HW, mask_BT), text_KD, self.logit_scale(), bias

    def embed_sites(self, tiles_BT3HW: Tensor, mask_BT: Tensor) -> Tensor:
        """Tiles, true in the mask where there is one -> image_BD of length one, float32."""
        return self._embed_sites(tiles_BT3HW, mask_BT)

    def _embed_sites(self, tiles_BT3HW: Tensor, mask_BT: Tensor) -> Tensor:
        """Not `embed_sites`, which like `forward` puts weights together that are spread over processes."""
        tile_ND = self.towers.encode_images(tiles_BT3HW[mask_BT])
        tile_BTD = tile_ND.new_zeros(*mask_BT.shape, tile_ND.shape[-1]).index_put((mask_BT,), tile_ND)
        image_BD: Tensor = self.pooling(tile_BTD, mask_BT)
        return image_BD if self.image_map is None else self.image_map(image_BD)

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> Tensor:
        """Sentences -> text_KD of length one, float32, without gradient."""
        return self.towers.encode_texts(self.towers.tokenize(texts))

    def train(self, mode: bool = True) -> "SiteModel":
        """As usual, but what is frozen stays as it is: batch statistics beside adapters, whole towers behind a head."""
        super().train(mode)
        if self.settings.tune == "head":
            self.towers.eval()
        elif self.settings.tune == "lora":
            for module in self.towers.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def save(self, folder: Path, record: dict[str, Any] | None = None) -> None:
        """Write the model into `folder`, by way of a temporary one; `record` is added to ``site_model.json``."""
        head = {name: tensor.detach().cpu().contiguous() for name, tensor in self._head_state().items()}
        card = {**self._card(), **(record or {})}
        with whole_folder(folder) as partial:
            save_file(head, partial / HEAD)
            if self.settings.tune == "lora":
                save_adapters(self.towers, partial)
            elif self.settings.tune == "full":
                self.write_logit_scale()
                save_towers(self.towers, partial)
            (partial / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
            (partial / "README.md").write_text(model_card(card), encoding="utf-8")

    def write_logit_scale(self) -> None:
        """Into the towers, where the stock library looks for it."""
        self.towers.clip.logit_scale.data.fill_(float(self.logit_scale.log_scale.detach()))

    def load_head(self, state: dict[str, Tensor]) -> None:
        """Put back what `save` wrote beside the towers. Raises ValueError where it is another model's."""
        own = self._head_state()
        if {name: x.shape for name, x in state.items()} != {name: x.shape for name, x in own.items()}:
            raise ValueError(f"{HEAD}: holds other tensors than this model's {', '.join(sorted(own))}")
        for name, tensor in own.items():
            tensor.copy_(state[name])

    def _head_state(self) -> dict[str, Tensor]:
        """All that is kept beside the towers."""
        return {name: x for name, x in self.state_dict().items() if not name.startswith(("towers.", "logit_bias."))}

    def preprocessing(self) -> dict[str, Any]:
        """What tiles have to be like for this model."""
        towers = self.towers
        return {
            "image_size": towers.image_size,
            "mean": list(towers.mean),
            "std": list(towers.std),
            "view_mm": VIEW_MM,
        }

    def _card(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            **asdict(self.settings),
            "base_sha256": self.base_sha256,
            "preprocessing": self.preprocessing(),
        }


def build_site_model(settings: ModelSettings) -> SiteModel:
    """A model ready to train: towers with their weights and, for ``--tune lora``, adapters on a frozen base.

    Raises ValueError where the towers cannot be loaded or adapted, or have nothing to adapt.
    """
    if settings.tune != "full" and not has_own_weights(settings.model, settings.pretrained):
        raise ValueError(
            f"--tune {settings.tune} --model {settings.model!r}: its weights would be random; name weights with "
            "--pretrained or --model local-dir:PATH, or train it from nothing with --tune full"
        )
    towers = load_towers(settings.model, settings.pretrained)
    if base := folder_of(settings.model):  # said in full: the model is loaded again from other working folders
        settings = replace(settings, model=settings.model.partition(":")[0] + f":{base.resolve()}")
    if settings.pretrained and Path(settings.pretrained).is_file():
        settings = replace(settings, pretrained=str(Path(settings.pretrained).resolve()))
    towers.requires_grad_(settings.tune == "full")
    model = SiteModel(towers, settings)
    if settings.tune == "lora":
        add_adapters(towers, settings.lora)
    return model


def load_site_model(folder: Path) -> SiteModel:
    """The model of a finished run's ``final/``, adapters merged, frozen, in evaluation mode.

    Raises ValueError where a file is missing or unreadable, or belongs to another base or another version.
    """
    card = _read_card(folder)
    settings = _settings_of(card)
    if settings.tune == "full":
        model = SiteModel(load_towers(name_of(folder)), settings)
    else:
        model = SiteModel(load_towers(settings.model, settings.pretrained), settings)
        _check_base(model, card, folder)
    if settings.tune == "lora":
        load_adapters(model.towers, settings.lora, folder)
        merge_adapters(model.towers)
    model.load_head(_read_tensors(folder / HEAD))
    return model.requires_grad_(False).eval()


def state_sha256(state: dict[str, Tensor]) -> str:
    """Of names and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read_card(folder: Path) -> dict[str, Any]:
    path = folder / CARD
    if not path.is_file():
        raise ValueError(f"{folder}: no {CARD} there; it should be the final/ of a run that train_vl.py finished")
    card = read_object(path, "train_vl.py", SCHEMA_VERSION)
    try:
        view_mm, _ = card["preprocessing"]["view_mm"], _settings_of(card)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: does not say what the model is made of ({error}); train the run again") from None
    if view_mm != VIEW_MM:
        raise ValueError(f"{path}: trained on tiles of {view_mm} mm; this version cuts {VIEW_MM} mm")
    return card


def _settings_of(card: dict[str, Any]) -> ModelSettings:
    return ModelSettings(
        model=card["model"], pretrained=card["pretrained"], tune=card["tune"], lora=LoraSettings(**card["lora"])
    )


def _check_base(model: SiteModel, card: dict[str, Any], folder: Path) -> None:
    found = state_sha256(base_state(model.towers.clip))
    if found != card["base_sha256"]:
        raise ValueError(
            f"{folder}: was trained on other weights of {card['model']!r} (sha256 "
            f"{card['base_sha256'][:12]}) than are there now ({found[:12]})"
        )
    now = model.preprocessing()
    if changed := [name for name in now if name in card["preprocessing"] and card["preprocessing"][name] != now[name]]:
        raise ValueError(
            f"{folder}: was trained with {changed[0]} {card['preprocessing'][changed[0]]}; {card['model']!r} now says "
            f"{now[changed[0]]}"
        )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    return tensors
