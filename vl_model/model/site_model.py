"""The model of a site: towers, pooling over tiles, and the logit scale give one embedding per site.

Its files are in `vl_model.model.site_model_files`.

Dimensions: B sites, T tiles per site, N tiles in all, K texts, L tokens, D embedding, H and W pixels.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vl_model.model.lora import add_adapters
from vl_model.model.pooling import TilePooling
from vl_model.model.residual_head import ResidualHead
from vl_model.model.settings import ModelSettings
from vl_model.towers.model_names import has_own_weights, model_folder
from vl_model.towers.towers import load_towers
from workspace.setting_error import SettingError

if TYPE_CHECKING:
    from vl_model.towers.towers import Towers

#: log 100: the bound that CLIP was trained with (Radford et al. 2021, section 2.5).
MAX_LOG_SCALE = math.log(100)
START_LOG_SCALE = math.log(1 / 0.07)
#: Of SigLIP's loss (Zhai et al. 2023, section 3.2): at first almost all pairs are negatives, and with this bias they
#: cost little.
START_BIAS = -10.0


class LogitScale(nn.Module):
    """The learned logit scale (inverse temperature), at most 100.

    It is a module so that wrappers such as DDP handle its parameter.
    """

    def __init__(self, log_scale: float = START_LOG_SCALE) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(float(log_scale)))

    def forward(self) -> Tensor:
        return self.log_scale.exp()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Clamp the parameter to its bound, after each step: a clamp in `forward` would stop the gradient there."""
        self.log_scale.clamp_(max=MAX_LOG_SCALE)


class LogitBias(nn.Module):
    """The learned bias of SigLIP's loss, which only training needs: finished runs do not contain it."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(START_BIAS))

    def forward(self) -> Tensor:
        return self.bias


class SiteModel(nn.Module):
    """Towers, pooling and logit scale.

    A training step computes everything in one call of `forward`, as DDP's hooks require.
    """

    def __init__(self, towers: "Towers", settings: ModelSettings) -> None:
        super().__init__()
        self.settings = settings
        self.towers = towers
        self.pooling = TilePooling(towers.embed_dim)
        # The attribute's name is part of the tensor's name in the files of runs.
        self.image_map = ResidualHead(towers.embed_dim) if settings.tune == "head" else None
        self.logit_scale = LogitScale(float(towers.clip.logit_scale.detach()))
        # The towers' own scale is replaced by `self.logit_scale`, and is updated when the towers are saved.
        towers.clip.logit_scale.requires_grad_(False)
        if getattr(towers.clip, "logit_bias", None) is not None:
            towers.clip.logit_bias.requires_grad_(False)  # a bias cancels in the softmax over captions

        self.logit_bias: LogitBias | None = None

    def add_logit_bias(self) -> None:
        """Add the bias that SigLIP's loss requires; call it before the first step."""
        self.logit_bias = LogitBias().to(self.device)

    @property
    def learns_text(self) -> bool:
        """Whether training changes the text tower."""
        return self.settings.tune == "full" or (self.settings.tune == "lora" and self.settings.lora.towers == "both")

    @property
    def learning_weights(self) -> int:
        """Number of trained weights."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    @property
    def device(self) -> torch.device:
        return self.pooling.query_D.device

    def forward(
        self,
        tiles_BT3HW: Tensor,
        mask_BT: Tensor,
        token_KL: Tensor | None,
        dropout_seeds: tuple[int | None, int | None] = (None, None),
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """Embed sites and texts.

        Args:
            tiles_BT3HW: normalised tiles.
            mask_BT: true for the tiles that exist, at least one per site.
            token_KL: tokens of the texts, or None.
            dropout_seeds: torch's seeds for dropout in the text tower and in the image tower; None: torch's generator
                is not reseeded.

        Returns:
            image_BD and text_KD (None without tokens), both L2-normalised; the logit scale; the bias (None without
            one).
        """
        text_seed, image_seed = dropout_seeds
        if text_seed is not None:
            torch.manual_seed(text_seed)
        text_KD = None if token_KL is None else self.towers.encode_texts(token_KL)
        if image_seed is not None:
            torch.manual_seed(image_seed)
        bias = None if self.logit_bias is None else self.logit_bias()
        return self._embed_sites(tiles_BT3HW, mask_BT)[0], text_KD, self.logit_scale(), bias

    def embed_sites(self, tiles_BT3HW: Tensor, mask_BT: Tensor) -> Tensor:
        """Embed sites from normalised tiles, `mask_BT` true for those that exist: image_BD, L2-normalised, float32."""
        return self._embed_sites(tiles_BT3HW, mask_BT)[0]

    def embed_and_weigh_sites(self, tiles_BT3HW: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image_BD of `embed_sites`, and the weight_BT that the pooling gave to each tile."""
        return self._embed_sites(tiles_BT3HW, mask_BT)

    def _embed_sites(self, tiles_BT3HW: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Implement `embed_sites`; `forward` cannot call that method itself.

        In sharded training both are entry points that gather the sharded weights, and they must not be nested.
        """
        # On a CPU, a step of a convolutional tower takes three quarters of the time with this layout, and one of a
        # transformer the same (docs/results/layouts.txt).
        tile_N3HW = tiles_BT3HW[mask_BT].contiguous(memory_format=torch.channels_last)
        tile_ND = self.towers.encode_images(tile_N3HW)
        tile_BTD = tile_ND.new_zeros(*mask_BT.shape, tile_ND.shape[-1]).index_put((mask_BT,), tile_ND)
        image_BD, weight_BT = self.pooling(tile_BTD, mask_BT)
        return image_BD if self.image_map is None else self.image_map(image_BD), weight_BT

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> Tensor:
        """Embed sentences without gradient: text_KD, L2-normalised, float32."""
        return self.towers.encode_texts(self.towers.tokenize(texts))

    def train(self, mode: bool = True) -> "SiteModel":
        """Set training mode, except for frozen parts: batch statistics with adapters, both towers with a head."""
        super().train(mode)
        if self.settings.tune == "head":
            self.towers.eval()
        elif self.settings.tune == "lora":
            for module in self.towers.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def write_logit_scale(self) -> None:
        """Copy the learned logit scale into the towers, from which the stock library reads it."""
        self.towers.clip.logit_scale.data.fill_(float(self.logit_scale.log_scale.detach()))

    def state_beside_towers(self) -> dict[str, Tensor]:
        """Return the tensors of pooling, logit scale and residual head, which are stored beside the towers."""
        return {name: x for name, x in self.state_dict().items() if not name.startswith(("towers.", "logit_bias."))}

    def preprocessing(self) -> dict[str, Any]:
        """Return the properties that tiles must have for this model."""
        towers = self.towers
        return {
            "image_size": towers.image_size,
            "mean": list(towers.mean),
            "std": list(towers.std),
            "view_mm": self.settings.view_mm,
        }


def build_site_model(settings: ModelSettings) -> SiteModel:
    """Build a model for training: towers with their weights and, if `tune` is "lora", adapters on a frozen base.

    Raises ValueError if the towers cannot be loaded, or have no layers to adapt.
    """
    if settings.tune != "full" and not has_own_weights(settings.model, settings.pretrained):
        from vl_model.towers.open_clip_towers import check_name

        check_name(settings.model)
        raise SettingError(
            "model",
            f"{settings.model!r}: has random weights, which tune {settings.tune!r} would keep frozen; set "
            "pretrained, set model to local-dir:PATH, or set tune to full to train it from random weights",
        )
    towers = load_towers(settings.model, settings.pretrained)
    if base := model_folder(settings.model):  # an absolute path, because the model may be loaded from other folders
        settings = replace(settings, model=settings.model.partition(":")[0] + f":{base.resolve()}")
    if settings.pretrained and Path(settings.pretrained).is_file():
        settings = replace(settings, pretrained=str(Path(settings.pretrained).resolve()))
    towers.requires_grad_(settings.tune == "full")
    model = SiteModel(towers, settings)
    if settings.tune == "lora":
        add_adapters(towers, settings.lora)
    return model
