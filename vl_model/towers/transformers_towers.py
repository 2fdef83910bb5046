"""Towers of transformers: CLIP, SigLIP, and SigLIP 2 of fixed resolution (which is a SigLIP, as MedSigLIP is).

Their blocks have query, key, value and output layers of their own; only SigLIP's pooling of the image has fused
attention, and is un-fused (`vl_model.towers.separate_attention`).

Dimensions: N images or texts, L tokens, D embedding, H and W pixels.
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

from vl_model.towers.l2_normalize import unit_length
from vl_model.towers.separate_attention import fused_state_dict, unfuse_attention
from vl_model.towers.transformers_files import find_model, read_companions
from vl_model.towers.unreadable_weights import why_unreadable

#: `model_type` in config.json -> the class that the stock library loads it with.
CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel"}

_UNREADABLE = (SafetensorError, UnpicklingError, EOFError, RuntimeError, OSError, ValueError, LookupError, TypeError)


class TransformersTowers(nn.Module):
    """The two towers of a CLIPModel or a SiglipModel.

    `image_size` pixels (square), `mean` and `std` of the three channels, `embed_dim` and `context_length` are the
    model's own. `companions`: its processor's and tokenizer's files, which are saved along with it.
    """

    clip: Any  # transformers' CLIPModel or SiglipModel
    adapter_config: Any = None  # peft's LoraConfig, once `vl_model.model.lora` has added adapters
    image_prefix = "clip.vision_model."
    left_out = ("clip.vision_model.head.",)  # SigLIP's pooling, which is one layer deep

    def __init__(self, clip: nn.Module, tokenizer: Any, processor: Any, companions: dict[str, bytes]) -> None:
        super().__init__()
        self.clip = clip
        self.tokenizer = tokenizer
        self.companions = companions
        unfuse_attention(self, SiglipMultiheadAttentionPoolingHead, "attention")
        config = self.clip.config
        self.image_size = int(config.vision_config.image_size)
        self.mean = tuple(float(value) for value in processor.image_mean)
        self.std = tuple(float(value) for value in processor.image_std)
        self._is_siglip = config.model_type == "siglip"
        text = config.text_config
        self.embed_dim = int(text.projection_size if self._is_siglip else config.projection_dim)
        self.context_length = int(text.max_position_embeddings)

    @property
    def device(self) -> torch.device:
        return next(self.clip.parameters()).device

    def encode_images(self, image_N3HW: Tensor) -> Tensor:
        """Normalised images -> image_ND, of length one, float32."""
        return unit_length(_embedding(self.clip.get_image_features(pixel_values=image_N3HW)))

    def encode_texts(self, token_NL: Tensor) -> Tensor:
        """Tokens (as `tokenize` gives them, on any device) -> text_ND, of length one, float32."""
        return unit_length(_embedding(self.clip.get_text_features(input_ids=token_NL.to(self.device))))

    def tokenize(self, texts: list[str]) -> Tensor:
        """Texts -> token_NL, for CLIP as long as the longest text: what follows its end is not seen (causal attention).

        SigLIP reads its last token, of 64, whatever that is, and was trained on texts in lower case (Tschannen et al.
        2025, arXiv:2502.14786); its own tokenizer sees to that, Gemma's, which SigLIP 2 comes with, does not.
        """
        tokens: Tensor = self.tokenizer(
            [text.lower() for text in texts] if self._is_siglip else texts,
            padding="max_length" if self._is_siglip else "longest",
            max_length=self.context_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return tokens

    def save(self, folder: Path) -> None:
        """Write configuration, weights, processor and tokenizer: a folder for stock ``from_pretrained``."""
        self.clip.save_pretrained(folder, state_dict=fused_state_dict(self.clip))
        for name, content in self.companions.items():
            (folder / name).write_bytes(content)


def load_transformers_towers(name: str) -> TransformersTowers:
    """The towers that ``--model hf:name`` names, a folder or a repository. Raises ValueError, one line."""
    folder = find_model(name)
    model_class = _model_class(name, folder)
    with _reading(name), _quiet():
        # No code of a repository's is run, and no file but these is looked for.
        clip, loading = model_class.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    if lacking := [*loading["missing_keys"], *loading["mismatched_keys"]]:
        raise ValueError(
            f"--model hf:{name}: its weights lack {len(lacking)} tensors, such as {min(map(str, lacking))}"
        )
    _check_size(name, clip.config.vision_config.image_size, processor)
    towers = TransformersTowers(clip.float(), tokenizer, processor, read_companions(folder))
    if int(towers.tokenize(["a"]).max()) >= clip.config.text_config.vocab_size:
        raise ValueError(f"--model hf:{name}: its tokenizer has more tokens than its weights: it is another model's")
    return towers


def _model_class(name: str, folder: Path) -> Any:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"--model hf:{name}: config.json does not say what model it is ({error!r})") from None
    if found == "siglip2":
        raise ValueError(f"--model hf:{name}: is a SigLIP 2 of variable resolution; take one of fixed resolution")
    if found not in CLASSES:
        raise ValueError(f"--model hf:{name}: is a {found!r} model; hf: takes {' and '.join(CLASSES)}")
    return getattr(transformers, CLASSES[found])


def _check_size(name: str, expected: int, processor: Any) -> None:
    """Raises ValueError where processor and weights disagree: one of them is another model's."""
    size = dict(getattr(processor, "crop_size", None) or processor.size)
    if expected not in size.values():
        raise ValueError(f"--model hf:{name}: its processor makes images of {size}, its weights take {expected} pixels")


def _embedding(features: Any) -> Tensor:
    """transformers 5 wraps what transformers 4 gave as a tensor."""
    found: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return found


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Whatever transformers raises for files that are absent or wrong becomes one ValueError."""
    try:
        yield
    except _UNREADABLE as error:
        reason = why_unreadable(error)
        raise ValueError(f"--model hf:{name}: cannot be loaded ({reason}); its files must belong together") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers reports on standard error what our own messages say better."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(level)
        transformers.logging.enable_progress_bar()
