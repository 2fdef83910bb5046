"""Image and text towers of any open_clip model, behind one small interface.

A model is named as ``--model`` names it:

- an open_clip name (``ViT-B-16``), with ``--pretrained`` a tag (``openai``) or a weights file; a tag knows which
  activation its weights were trained with, a file does not: OpenAI's need the name's twin (``ViT-B-16-quickgelu``);
- ``local-dir:PATH``, a folder with ``open_clip_config.json`` and ``open_clip_model.safetensors``;
- ``hf-hub:ORGANISATION/NAME``, from the local cache or the hub;
- a configuration of this project's own (``vl_model/configs/``): ``lumbar-tiny``, small enough to train from nothing.

Dimensions: N images or texts, L tokens, D embedding, H and W pixels.
"""

import difflib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import open_clip
import torch
import torch.nn.functional as F
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from open_clip.transformer import TextTransformer, text_global_pool
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from vl_model.attention import fused_state_dict, unfuse_attention

CONFIGS = Path(__file__).with_name("configs")
CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
LOCAL_DIR = "local-dir:"
HF_HUB = "hf-hub:"

#: What weights files raise that are none.
_UNREADABLE = (SafetensorError, UnpicklingError, EOFError, BadZipFile)

open_clip.add_model_config(CONFIGS)


class OpenClipTowers(nn.Module):
    """The two towers of an open_clip model, its attention un-fused (`vl_model.attention`).

    `image_size` pixels (square), `mean` and `std` of the three channels, `embed_dim` and `context_length` are the
    model's own.
    """

    clip: Any  # open_clip's CLIP or CustomTextCLIP
    adapter_config: Any = None  # peft's LoraConfig, once `vl_model.lora` has added adapters

    def __init__(self, clip: nn.Module, tokenizer: Any, config: dict[str, Any]) -> None:
        super().__init__()
        self.clip = clip
        self.tokenizer = tokenizer
        self.config = config
        unfuse_attention(self)
        visual: Any = clip.visual
        size = visual.image_size
        self.image_size = int(size[0] if isinstance(size, tuple | list) else size)
        self.mean = tuple(float(value) for value in visual.image_mean)
        self.std = tuple(float(value) for value in visual.image_std)
        self.embed_dim = int(config["embed_dim"])
        self.context_length = int(self.clip.context_length)
        self._pad_id = _pad_id(self._text)
        self._cuts_texts = _is_indifferent_to_padding(self._text)

    @property
    def image_tower(self) -> Any:
        return self.clip.visual

    @property
    def device(self) -> torch.device:
        return next(self.clip.parameters()).device

    @property
    def _text(self) -> Any:
        """The module that holds the text tower's parts: the model itself, or its `text`."""
        return getattr(self.clip, "text", self.clip)

    def encode_images(self, image_N3HW: Tensor) -> Tensor:
        """Normalised images -> image_ND, of length one, float32."""
        return F.normalize(self.clip.encode_image(image_N3HW).float(), dim=-1)

    def encode_texts(self, token_NL: Tensor) -> Tensor:
        """Tokens (as `tokenize` gives them, on any device) -> text_ND, of length one, float32."""
        token_NL = token_NL.to(self.device)
        if token_NL.shape[1] < self.context_length and not isinstance(self._text, HFTextEncoder):
            text_ND = self._encode_cut(token_NL)
        else:
            text_ND = self.clip.encode_text(token_NL)
        return F.normalize(text_ND.float(), dim=-1)

    def tokenize(self, texts: list[str]) -> Tensor:
        """Texts -> token_NL, cut to the longest text where the padding behind it cannot matter."""
        token_NL: Tensor = self.tokenizer(texts)
        if not self._cuts_texts:
            return token_NL
        used_L = (token_NL != self._pad_id).any(dim=0).nonzero()
        return token_NL[:, : int(used_L.max()) + 1]

    def _encode_cut(self, token_NL: Tensor) -> Tensor:
        """open_clip's `encode_text` for fewer tokens than its context: the positions and the mask are cut with them.

        Exact for a causal tower that pools at the end-of-text token: nothing before that token sees what follows it.
        """
        text, length = self._text, token_NL.shape[1]
        dtype = text.transformer.get_cast_dtype()
        x_NLD = text.token_embedding(token_NL).to(dtype) + text.positional_embedding[:length].to(dtype)
        x_NLD = text.ln_final(text.transformer(x_NLD, attn_mask=text.attn_mask[:length, :length]))
        pool_type = text.text_pool_type if isinstance(text, CLIP) else text.pool_type
        eos_id = text.text_eos_id if isinstance(text, CLIP) else text.eos_id
        x_ND: Tensor = text_global_pool(x_NLD, token_NL, pool_type, eos_token_id=eos_id)
        projection = text.text_projection
        if projection is None:
            return x_ND
        out_ND: Tensor = projection(x_ND) if isinstance(projection, nn.Linear) else x_ND @ projection
        return out_ND


def load_towers(model: str, pretrained: str | None = None) -> OpenClipTowers:
    """Build the towers that `model` and `pretrained` name, with their weights, on the CPU in float32.

    Raises ValueError with one line that says what is unknown, or which file is missing and where it belongs.
    """
    if model.startswith((LOCAL_DIR, HF_HUB)) and pretrained:
        raise ValueError(f"--pretrained {pretrained!r}: {model!r} brings its own weights; leave --pretrained out")
    if model.startswith(LOCAL_DIR):
        return _load_folder(Path(model.removeprefix(LOCAL_DIR)).expanduser())
    if model.startswith(HF_HUB):
        return _create(model, None, "download the repository on a machine with a network and use local-dir:FOLDER")
    return _load_named(model, pretrained)


def has_own_weights(model: str, pretrained: str | None) -> bool:
    """Whether the named towers come with trained weights rather than random ones."""
    return bool(pretrained) or model.startswith((LOCAL_DIR, HF_HUB))


def save_towers(towers: OpenClipTowers, folder: Path) -> None:
    """Write an open_clip folder (configuration and weights) that stock open_clip loads as ``local-dir:folder``.

    The towers must not carry adapters: `vl_model.lora.merged_towers` first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = fused_state_dict(towers.clip)
    if stray := [name for name in state if "lora_" in name]:
        raise ValueError(f"{stray[0]!r} is an adapter's: merge the adapters before saving the towers")
    config = {"model_cfg": towers.config, "preprocess_cfg": {"mean": towers.mean, "std": towers.std}}
    save_file(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}, folder / WEIGHTS_FILE
    )
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _load_folder(folder: Path) -> OpenClipTowers:
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ValueError(
                f"--model local-dir:{folder}: no file {name} there; "
                f"an open_clip folder has {CONFIG_FILE} and {WEIGHTS_FILE}"
            )
    return _create(f"{LOCAL_DIR}{folder}", None, f"{CONFIG_FILE} and {WEIGHTS_FILE} must belong together")


def _load_named(model: str, pretrained: str | None) -> OpenClipTowers:
    names = open_clip.list_models()
    if model not in names:
        near = difflib.get_close_matches(model, names, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see open_clip.list_models()"
        raise ValueError(f"--model {model!r}: not an open_clip name, nor local-dir:PATH or hf-hub:NAME; {hint}")
    if pretrained and Path(pretrained).is_file():
        return _create(model, pretrained, "the file must hold this model's weights")
    if pretrained and not get_pretrained_cfg(model, pretrained):
        tags = list_pretrained_tags_by_model(model)
        known = f"its tags are {', '.join(tags)}" if tags else "it has no tags"
        raise ValueError(f"--pretrained {pretrained!r}: neither a file nor a tag of {model}; {known}")
    return _create(model, pretrained, _where_to_get(model, pretrained))


def _where_to_get(model: str, pretrained: str | None) -> str:
    source = get_pretrained_cfg(model, pretrained) if pretrained else {}
    twin = f"{model}-quickgelu"  # a file does not say that its weights were trained with QuickGELU
    name = f"--model {twin} " if source.get("quick_gelu") and twin in open_clip.list_models() else ""
    if repository := source.get("hf_hub", "").strip("/"):
        return (
            f"on a machine with a network: hf download {repository} {WEIGHTS_FILE}, copy the file here and give "
            f"{name}--pretrained FILE"
        )
    return f"download {source.get('url', 'its weights')}, and give {name}--pretrained FILE"


def _create(model: str, pretrained: str | None, remedy: str) -> OpenClipTowers:
    """Build with open_clip; whatever it raises for files that are absent or wrong becomes one ValueError."""
    tag = get_pretrained_cfg(model, pretrained) if pretrained else {}
    quick_gelu = bool(tag.get("quick_gelu"))  # weights trained with QuickGELU need it, whatever the name says
    named = f"--model {model!r}" + (f" --pretrained {pretrained!r}" if pretrained else "")
    try:
        with _quiet_logging():
            config = open_clip.get_model_config(model)
            clip = open_clip.create_model(model, pretrained, force_quick_gelu=quick_gelu)
            tokenizer = open_clip.get_tokenizer(model)
    except (*_UNREADABLE, RuntimeError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        # Of a file that is no weights file, torch's own words advise to load it unsafely.
        unsafe = isinstance(error, UnpicklingError)
        reason = "damaged, or more than tensors" if unsafe else " ".join(str(error).split())[:300]
        raise ValueError(f"{named}: cannot be loaded ({reason}); {remedy}") from None
    if quick_gelu:
        config["quick_gelu"] = True
    return OpenClipTowers(clip, tokenizer, deepcopy(config))


def _pad_id(text: Any) -> int:
    return int(text.config.pad_token_id) if isinstance(text, HFTextEncoder) else int(getattr(text, "pad_id", 0))


def _is_indifferent_to_padding(text: Any) -> bool:
    """Whether tokens after the text leave its embedding unchanged, so that they need not be computed."""
    if isinstance(text, HFTextEncoder):
        return True  # padding is masked
    pool_type = getattr(text, "text_pool_type", getattr(text, "pool_type", ""))
    has_class_token = isinstance(text, TextTransformer) and text.cls_emb is not None
    is_causal = text.attn_mask is not None
    return is_causal and pool_type in ("argmax", "eos") and not has_class_token


@contextmanager
def _quiet_logging() -> Iterator[None]:
    """open_clip logs to the root logger what our own messages say better."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(previous)
