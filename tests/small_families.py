"""A small model of each family of towers, with random weights, in its library's own format on disk.

Each function writes into a folder and returns its model name. Tokenizers are trained on this project's own captions, so
that nothing is downloaded.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import sentencepiece
import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from data_prep.sites import SITES, Severity
from prompts.render import training_captions
from tests.tiny_model import write_tiny_base

CAPTIONS = [text for site in SITES for severity in Severity for text in training_captions(site, severity)]
IMAGE_SIZE = 32
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": IMAGE_SIZE,
    "patch_size": 8,
}
TEXT = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_clip(folder: Path, seed: int = 0) -> str:
    """Write a CLIPModel of transformers, with the first merges of CLIP's vocabulary."""
    simple = open_clip.get_tokenizer("ViT-B-32")
    merges = [" ".join(pair) for pair, _ in sorted(simple.bpe_ranks.items(), key=lambda item: item[1])][:2000]
    words = [*list(simple.encoder)[: 512 + len(merges)], "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    text = TEXT | {"vocab_size": len(words), "max_position_embeddings": 77}
    text |= {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=20)
    torch.manual_seed(seed)
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )
    return _save(folder, _perturbed(transformers.CLIPModel(config)), tokenizer, processor)


def write_siglip(folder: Path, seed: int = 0) -> str:
    """Write a SiglipModel of transformers with a SentencePiece tokenizer, as SigLIP and MedSigLIP have."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "spiece.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text.lower() for text in CAPTIONS),
            model_writer=file,
            vocab_size=120,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    tokenizer = transformers.SiglipTokenizer(str(folder / "spiece.model"))
    return _write_siglip(folder, tokenizer, seed, pad_id=1)


def write_siglip2(folder: Path, seed: int = 0) -> str:
    """Write a SiglipModel with a tokenizer like Gemma's, which keeps capitals: SigLIP 2 of fixed resolution."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    tokenizer.train_from_iterator(CAPTIONS, trainers.BpeTrainer(vocab_size=500, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    folder.mkdir(parents=True, exist_ok=True)
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    )
    return _write_siglip(folder, wrapped, seed, pad_id=0)


def write_biomedclip(folder: Path, seed: int = 0) -> str:
    """Write open_clip's CustomTextCLIP of a timm ViT and a BERT, with a ``.bin`` of weights, like BiomedCLIP."""
    folder.mkdir(parents=True, exist_ok=True)
    words = sorted({word for text in CAPTIONS for word in text.lower().replace(":", " ").replace(",", " ").split()})
    letters = [chr(code) for code in range(33, 127)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{x}" for x in letters), *words]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)) + "\n")
    transformers.BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    bert = transformers.BertConfig(**TEXT, vocab_size=len(dict.fromkeys(vocabulary)), max_position_embeddings=64)
    (folder / "config.json").write_text(bert.to_json_string(use_diff=False))
    model = {
        "embed_dim": 20,
        "vision_cfg": {
            "timm_model_name": "test_vit",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 160,
        },
        "text_cfg": {
            "hf_model_name": "nobody/has-this-text-tower",
            "hf_tokenizer_name": "nobody/has-this-text-tower",
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": 48,
        },
    }
    config = {"model_cfg": model, "preprocess_cfg": {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    stock = stock_biomedclip(folder, load_weights=False)
    torch.save(_perturbed(stock).state_dict(), folder / "open_clip_pytorch_model.bin")
    return f"local-dir:{folder}"


def stock_biomedclip(folder: Path, load_weights: bool = True) -> Any:
    """Build the folder's model with stock open_clip, with the text tower's configuration from the folder too."""
    text = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    text |= {"hf_model_name": str(folder), "hf_model_pretrained": False}
    return open_clip.create_model(
        f"local-dir:{folder}", load_weights=load_weights, text_cfg=text, pretrained_text=False
    )


@torch.no_grad()
def stock_embeddings(model: str, image_N3HW: Tensor, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Return L2-normalised image_ND and text_KD as the stock library computes them, with the settings that it needs."""
    folder = Path(model.partition(":")[2])
    if model.startswith("local-dir:"):
        has_bert = (folder / "config.json").is_file()
        clip = (stock_biomedclip(folder) if has_bert else open_clip.create_model(model)).eval()
        tokens = open_clip.get_tokenizer(model)(texts)
        return clip.encode_image(image_N3HW, normalize=True), clip.encode_text(tokens, normalize=True)
    clip, loading = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()), "not strict"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if clip.config.model_type == "siglip":
        lower = [text.lower() for text in texts]
        inputs = {"input_ids": tokenizer(lower, padding="max_length", max_length=64, return_tensors="pt").input_ids}
    else:
        inputs = dict(tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt"))
    image_ND = clip.get_image_features(pixel_values=image_N3HW).pooler_output
    text_KD = clip.get_text_features(**inputs).pooler_output
    return F.normalize(image_ND, dim=-1), F.normalize(text_KD, dim=-1)


#: Name -> function that writes a model of the family.
FAMILIES: dict[str, Callable[[Path], str]] = {
    "open_clip": write_tiny_base,
    "open_clip with BERT": write_biomedclip,
    "CLIP": write_clip,
    "SigLIP": write_siglip,
    "SigLIP 2": write_siglip2,
}


def _write_siglip(folder: Path, tokenizer: Any, seed: int, pad_id: int) -> str:
    text = TEXT | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 64,
        "projection_size": VISION["hidden_size"],
    }
    text |= {"pad_token_id": pad_id, "eos_token_id": 1, "bos_token_id": 2}
    config = transformers.SiglipConfig(text_config=text, vision_config=VISION)
    torch.manual_seed(seed)
    processor = transformers.SiglipImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    return _save(folder, _perturbed(transformers.SiglipModel(config)), tokenizer, processor)


def _save(folder: Path, model: Any, tokenizer: Any, processor: Any) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    return f"hf:{folder}"


def _perturbed(model: Any) -> Any:
    """Move all weights from values that hide mistakes, such as biases of zero and gains of one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        model.logit_scale.fill_(2.0)
    return model.eval()
