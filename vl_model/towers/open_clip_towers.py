"""Towers of open_clip: its own transformers, image towers of timm, text towers of transformers (BiomedCLIP).

A text tower of transformers needs more than open_clip's two files: its configuration, which open_clip requests from the
hub each time, and its tokenizer. Both are read from the model's folder if it holds them, and are saved into it.

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
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from open_clip.transformer import ResidualAttentionBlock, TextTransformer, text_global_pool
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from vl_model.towers.l2_normalize import l2_normalize
from vl_model.towers.model_names import OPEN_CLIP_CONFIG
from vl_model.towers.separate_attention import fused_state_dict, unfuse_attention
from vl_model.towers.unreadable_weights import why_unreadable
from workspace.setting_error import SettingError

CONFIGS = Path(__file__).with_name("configs")
WEIGHTS_FILE = "open_clip_model.safetensors"
WEIGHTS_FILES = (WEIGHTS_FILE, "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
TEXT_CONFIG_FILE = "config.json"
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")

#: What the libraries raise for files that are no weights.
_UNREADABLE = (SafetensorError, UnpicklingError, EOFError, BadZipFile)
#: What the libraries raise for a configuration that does not describe a model, or another one than the weights'.
_WRONG = (RuntimeError, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError)

open_clip.add_model_config(CONFIGS)


class OpenClipTowers(nn.Module):
    """The two towers of an open_clip model, with un-fused attention (`vl_model.towers.separate_attention`).

    `image_size` (pixels, square), `mean` and `std` of the three channels, `embed_dim` and `context_length` come from
    the model's configuration.
    """

    clip: Any  # open_clip's CLIP or CustomTextCLIP
    adapter_config: Any = None  # peft's LoraConfig, once `vl_model.model.lora` has added adapters
    image_prefix = "clip.visual."
    left_out: tuple[str, ...] = ()

    def __init__(self, clip: nn.Module, tokenizer: Any, config: dict[str, Any]) -> None:
        super().__init__()
        self.clip = clip
        self.tokenizer = tokenizer
        self.config = config
        unfuse_attention(self, ResidualAttentionBlock, "attn")
        visual: Any = clip.visual
        size = visual.image_size
        self.image_size = int(size[0] if isinstance(size, tuple | list) else size)
        self.mean = tuple(float(value) for value in visual.image_mean)
        self.std = tuple(float(value) for value in visual.image_std)
        self.embed_dim = int(config["embed_dim"])
        # The configuration of a text tower of transformers holds the number of its positions, which may be larger than
        # the length of the texts that it was trained on.
        trained: Any = tokenizer if isinstance(self._text, HFTextEncoder) else clip
        self.context_length = int(trained.context_length)
        self._pad_id = _pad_id(self._text)
        self._cuts_texts = _ignores_padding(self._text)

    @property
    def device(self) -> torch.device:
        return next(self.clip.parameters()).device

    @property
    def _text(self) -> Any:
        """The module that holds the text tower's parts: the model itself, or its `text`."""
        return getattr(self.clip, "text", self.clip)

    def encode_images(self, image_N3HW: Tensor) -> Tensor:
        """Embed normalised images: image_ND, L2-normalised, float32."""
        return l2_normalize(self.clip.encode_image(image_N3HW))

    def encode_texts(self, token_NL: Tensor) -> Tensor:
        """Embed tokens from `tokenize`, on any device: text_ND, L2-normalised, float32."""
        token_NL = token_NL.to(self.device)
        if token_NL.shape[1] < self.context_length and not isinstance(self._text, HFTextEncoder):
            text_ND = self._encode_cut(token_NL)
        else:
            text_ND = self.clip.encode_text(token_NL)
        return l2_normalize(text_ND)

    def tokenize(self, texts: list[str]) -> Tensor:
        """Tokenize texts: token_NL, cut to the longest text if padding has no influence on the embeddings."""
        token_NL: Tensor = self.tokenizer(texts)
        if not self._cuts_texts:
            return token_NL
        used_L = (token_NL != self._pad_id).any(dim=0).nonzero()
        return token_NL[:, : int(used_L.max()) + 1]

    def save(self, folder: Path) -> None:
        """Write configuration, weights and, for a text tower of transformers, its configuration and tokenizer."""
        state = fused_state_dict(self.clip)
        config = {"model_cfg": self.config, "preprocess_cfg": {"mean": self.mean, "std": self.std}}
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
        save_file(tensors, folder / WEIGHTS_FILE)
        (folder / OPEN_CLIP_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if isinstance(self._text, HFTextEncoder):
            text_config = deepcopy(self._text.config)
            text_config.name_or_path = ""  # a path of this machine, which must not be published
            (folder / TEXT_CONFIG_FILE).write_text(text_config.to_json_string(use_diff=False), encoding="utf-8")
        if isinstance(self.tokenizer, open_clip.tokenizer.HFTokenizer):
            self.tokenizer.tokenizer.save_pretrained(folder)

    def _encode_cut(self, token_NL: Tensor) -> Tensor:
        """Run open_clip's `encode_text` on fewer tokens than its context, with positions and mask cut to their number.

        This is exact for a causal tower that pools at the end-of-text token: that token does not attend to later ones.
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


def load_folder(folder: Path) -> OpenClipTowers:
    """Load the towers of an open_clip folder, whose model name is ``local-dir:folder``.

    Raises ValueError if a file is missing or unreadable.
    """
    named = f"'local-dir:{folder}'"
    if not (folder / OPEN_CLIP_CONFIG).is_file():
        hint = f"an open_clip folder has {OPEN_CLIP_CONFIG} and {WEIGHTS_FILE}"
        if (folder / TEXT_CONFIG_FILE).is_file():
            hint += f"; if it is a model of transformers, its name is hf:{folder}"
        raise SettingError("model", f"{named}: the file {OPEN_CLIP_CONFIG} is missing; {hint}")
    if not any((folder / name).is_file() for name in WEIGHTS_FILES):
        raise SettingError(
            "model",
            f"{named}: the file {WEIGHTS_FILE} is missing; an open_clip folder has {OPEN_CLIP_CONFIG} and "
            f"{WEIGHTS_FILE}",
        )
    overrides = _text_overrides(folder, named)
    remedy = f"{OPEN_CLIP_CONFIG} and the weights must be of the same model"
    return _create(f"local-dir:{folder}", None, remedy, overrides)


def load_hub(model: str) -> OpenClipTowers:
    """Load the towers of ``hf-hub:ORGANISATION/NAME``, from the local cache or the hub.

    Raises ValueError if neither has them.
    """
    repository = model.partition(":")[2]
    return _create(
        model,
        None,
        f"on a machine with a network, run hf download {repository} --local-dir FOLDER, copy FOLDER to this machine "
        "and set model to local-dir:FOLDER",
    )


def check_name(model: str) -> None:
    """Raise SettingError, with the nearest names, if open_clip has no model of this name."""
    names = open_clip.list_models()
    if model not in names:
        near = difflib.get_close_matches(model, names, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see open_clip.list_models()"
        raise SettingError(
            "model",
            f"{model!r}: is neither an open_clip name nor local-dir:PATH, hf-hub:NAME, hf:PATH or hf:NAME; {hint}",
        )


def load_named(model: str, pretrained: str | None) -> OpenClipTowers:
    """Load the towers of an open_clip name, with the weights of a tag or of a file, or with random ones.

    Raises ValueError for an unknown name or tag, and if the weights cannot be loaded.
    """
    check_name(model)
    if pretrained and Path(pretrained).is_file():
        return _create(model, pretrained, "the file must hold the weights of this model")
    if pretrained and not get_pretrained_cfg(model, pretrained):
        tags = list_pretrained_tags_by_model(model)
        known = f"its tags are {', '.join(tags)}" if tags else "it has no tags"
        raise SettingError("pretrained", f"{pretrained!r}: is neither a file nor a tag of {model}; {known}")
    return _create(model, pretrained, _where_to_get(model, pretrained))


def _text_overrides(folder: Path, named: str) -> dict[str, Any]:
    """Return overrides that make open_clip read the text tower's configuration from the folder, not from the hub.

    Raises ValueError if the folder lacks the tokenizer, or if neither the folder nor the cache has the configuration.
    """
    try:
        text = open_clip.get_model_config(f"local-dir:{folder}")["text_cfg"]
        tokenizer, source = text.get("hf_tokenizer_name"), text.get("hf_model_name")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / OPEN_CLIP_CONFIG}: is not a model's configuration ({error!r})") from None
    if tokenizer and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise SettingError(
            "model",
            f"{named}: the tokenizer is missing; on a machine with a network, run hf download {tokenizer} "
            "tokenizer.json tokenizer_config.json vocab.txt --local-dir FOLDER, and copy the files into the folder",
        )
    if not source or Path(source).is_dir():
        return {}
    if (folder / TEXT_CONFIG_FILE).is_file():
        return {"text_cfg": text | {"hf_model_name": str(folder), "hf_model_pretrained": False}}
    if not _is_cached(source, TEXT_CONFIG_FILE):
        raise SettingError(
            "model",
            f"{named}: the file {TEXT_CONFIG_FILE}, which describes the text tower, is missing; on a machine with a "
            f"network, run hf download {source} {TEXT_CONFIG_FILE} --local-dir FOLDER, and copy the file into the "
            "folder",
        )
    return {}


def _is_cached(repository: str, name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repository, name), str)


def _where_to_get(model: str, pretrained: str | None) -> str:
    """Return the instruction for fetching the weights of a tag on another machine."""
    source = get_pretrained_cfg(model, pretrained) if pretrained else {}
    twin = f"{model}-quickgelu"  # a weights file does not record that it was trained with QuickGELU
    name = f"model to {twin} and " if source.get("quick_gelu") and twin in open_clip.list_models() else ""
    if repository := source.get("hf_hub", "").strip("/"):
        return (
            f"on a machine with a network, run hf download {repository} {WEIGHTS_FILE}, copy the file to this machine "
            f"and set {name}pretrained to its path"
        )
    return f"download {source.get('url', 'its weights')}, and set {name}pretrained to the file's path"


def _create(model: str, pretrained: str | None, remedy: str, overrides: dict[str, Any] | None = None) -> OpenClipTowers:
    """Build the towers with open_clip; whatever it raises for missing or wrong files becomes one ValueError."""
    tag = get_pretrained_cfg(model, pretrained) if pretrained else {}
    quick_gelu = bool(tag.get("quick_gelu"))  # weights trained with QuickGELU need it, whatever the model's name
    named = repr(model) + (f" with pretrained {pretrained!r}" if pretrained else "")
    try:
        with quiet_logging():
            config = open_clip.get_model_config(model)
            clip = open_clip.create_model(model, pretrained, force_quick_gelu=quick_gelu, **(overrides or {}))
            tokenizer = open_clip.get_tokenizer(model)
    except (*_UNREADABLE, *_WRONG) as error:
        raise SettingError("model", f"{named}: cannot be loaded ({why_unreadable(error)}); {remedy}") from None
    if quick_gelu:
        config["quick_gelu"] = True
    return OpenClipTowers(clip, tokenizer, deepcopy(config))


def _pad_id(text: Any) -> int:
    return int(text.config.pad_token_id) if isinstance(text, HFTextEncoder) else int(getattr(text, "pad_id", 0))


def _ignores_padding(text: Any) -> bool:
    """Whether padding leaves a text's embedding unchanged, so that it need not be computed."""
    if isinstance(text, HFTextEncoder):
        return True  # padding is masked
    pool_type = getattr(text, "text_pool_type", getattr(text, "pool_type", ""))
    has_class_token = isinstance(text, TextTransformer) and text.cls_emb is not None
    is_causal = text.attn_mask is not None
    return is_causal and pool_type in ("argmax", "eos") and not has_class_token


@contextmanager
def quiet_logging() -> Iterator[None]:
    """Silence open_clip's messages to the root logger: this module's errors replace them."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(previous)
