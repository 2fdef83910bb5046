"""Towers of transformers: CLIP, SigLIP, MedSigLIP, and SigLIP 2 of fixed resolution; the last two are SigLIP models.

Their blocks have separate query, key, value and output layers. Only SigLIP's pooling of the image has fused attention,
which is un-fused (`vl_model.towers.separate_attention`).

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

from vl_model.towers.l2_normalize import l2_normalize
from vl_model.towers.separate_attention import fused_state_dict, unfuse_attention
from vl_model.towers.transformers_files import find_model, read_companions
from vl_model.towers.unreadable_weights import why_unreadable
from workspace.setting_error import SettingError

#: `model_type` in config.json -> the class of transformers that loads the model.
CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel"}

_UNREADABLE = (SafetensorError, UnpicklingError, EOFError, RuntimeError, OSError, ValueError, LookupError, TypeError)


class TransformersTowers(nn.Module):
    """The two towers of a CLIPModel or a SiglipModel.

    `image_size` (pixels, square), `mean` and `std` of the three channels, `embed_dim` and `context_length` come from
    the model's configuration. `companions` are the files of its processor and tokenizer, which are saved along with it.
    """

    clip: Any  # transformers' CLIPModel or SiglipModel
    adapter_config: Any = None  # peft's LoraConfig, once `vl_model.model.lora` has added adapters
    image_prefix = "clip.vision_model."
    left_out = ("clip.vision_model.head.",)  # SigLIP's pooling, which is a single layer

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
        """Embed normalised images: image_ND, L2-normalised, float32."""
        return l2_normalize(_embedding(self.clip.get_image_features(pixel_values=image_N3HW)))

    def encode_texts(self, token_NL: Tensor) -> Tensor:
        """Embed tokens from `tokenize`, on any device: text_ND, L2-normalised, float32."""
        return l2_normalize(_embedding(self.clip.get_text_features(input_ids=token_NL.to(self.device))))

    def tokenize(self, texts: list[str]) -> Tensor:
        """Tokenize texts: token_NL, for CLIP as long as the longest text, for SigLIP always 64.

        CLIP's attention is causal, so the padding after the end of a text has no influence. SigLIP pools at its last
        token, padding or not, and was trained on lower-case texts (Tschannen et al. 2025, arXiv:2502.14786): its own
        tokenizer lowers them, but Gemma's, which SigLIP 2 uses, does not.
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
        """Write configuration, weights, processor and tokenizer: a folder that stock ``from_pretrained`` loads."""
        self.clip.save_pretrained(folder, state_dict=fused_state_dict(self.clip))
        for name, content in self.companions.items():
            (folder / name).write_bytes(content)


def load_transformers_towers(name: str) -> TransformersTowers:
    """Load the towers of ``hf:name``, a folder or a repository.

    Raises ValueError, in one line, if they cannot be loaded or are of an unsupported kind.
    """
    folder = find_model(name)
    model_class = _model_class(name, folder)
    with _reading(name), _quiet():
        # Code that a repository brings is never run, and only files in this folder are read.
        clip, loading = model_class.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    if missing := [*loading["missing_keys"], *loading["mismatched_keys"]]:
        raise SettingError(
            "model",
            f"'hf:{name}': the weights lack {len(missing)} tensors, such as {min(map(str, missing))}; "
            "config.json and the weights must be of the same model",
        )
    _check_size(name, clip.config.vision_config.image_size, processor)
    towers = TransformersTowers(clip.float(), tokenizer, processor, read_companions(folder))
    if int(towers.tokenize(["a"]).max()) >= clip.config.text_config.vocab_size:
        raise SettingError(
            "model", f"'hf:{name}': the tokenizer has more tokens than the weights; both must be of the same model"
        )
    return towers


def _model_class(name: str, folder: Path) -> Any:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise SettingError("model", f"'hf:{name}': config.json has no readable model_type ({error!r})") from None
    if found == "siglip2":
        raise SettingError(
            "model",
            f"'hf:{name}': is a SigLIP 2 of variable resolution; choose one of fixed resolution, such as "
            "hf:google/siglip2-base-patch16-224",
        )
    if found not in CLASSES:
        raise SettingError("model", f"'hf:{name}': is a {found!r} model; hf: supports {' and '.join(CLASSES)}")
    return getattr(transformers, CLASSES[found])


def _check_size(name: str, expected: int, processor: Any) -> None:
    """Check that the processor and the weights expect images of one size; raises ValueError if not."""
    size = dict(getattr(processor, "crop_size", None) or processor.size)
    if expected not in size.values():
        raise SettingError(
            "model",
            f"'hf:{name}': the processor makes images of {size}, but the weights expect {expected} pixels; both "
            "must be of the same model",
        )


def _embedding(features: Any) -> Tensor:
    """Return the tensor of embeddings, which transformers 5 wraps in an output object and transformers 4 does not."""
    found: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return found


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn whatever transformers raises for missing or wrong files into one ValueError."""
    try:
        yield
    except _UNREADABLE as error:
        reason = why_unreadable(error)
        raise SettingError(
            "model", f"'hf:{name}': cannot be loaded ({reason}); all files of the folder must be of the same model"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' messages on standard error: this module's errors replace them."""
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
