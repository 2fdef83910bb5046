"""The 75 captions in their several wordings, and which wording a training step uses.

Captions are numbered as in `vl_model.data.site_rows.caption_index`. Each step picks one wording of each,
by (seed, step) alone, so that a resumed run and every process pick the same.

Dimensions: K captions, M wordings of all of them, L tokens, D embedding.
"""

import hashlib
import json

import numpy as np
import torch
from torch import Tensor

from data_prep.sites import SITES, Severity
from prompts.render import training_captions
from runs.random_streams import Stream, random_stream
from vl_model.model.site_model import SiteModel


class Captions:
    """Wordings of all captions, tokenized once; embedded once too where the text tower does not learn."""

    def __init__(self, model: SiteModel, seed: int) -> None:
        wordings = _wordings()
        self.seed = seed
        self.texts = [text for texts in wordings for text in texts]
        self._counts = np.array([len(texts) for texts in wordings])
        self._firsts = np.cumsum(self._counts) - self._counts
        self._token_ML = model.towers.tokenize(self.texts)
        self._text_MD = None if model.learns_text else _embedded_without_dropout(model, self.texts)

    def choose(self, step: int) -> np.ndarray:
        """Index into `texts` of each caption's wording in this step, shape (75,)."""
        draw_K = random_stream(self.seed, Stream.WORDINGS, step).random(len(self._counts))
        return self._firsts + (draw_K * self._counts).astype(int)

    def tokens(self, step: int) -> Tensor | None:
        """token_KL of this step's wordings, or None where `embeddings` has them already."""
        return None if self._text_MD is not None else self._token_ML[torch.from_numpy(self.choose(step))]

    def embeddings(self, step: int) -> Tensor | None:
        """text_KD of this step's wordings where the text tower is frozen, else None."""
        return None if self._text_MD is None else self._text_MD[torch.from_numpy(self.choose(step))]

    def first_texts(self) -> list[str]:
        """Each caption's own text (its first wording), for held-out evaluation."""
        return [self.texts[first] for first in self._firsts]


def captions_sha256() -> str:
    """Of all wordings: what they were when a run began."""
    return hashlib.sha256(json.dumps([text for texts in _wordings() for text in texts]).encode()).hexdigest()


def _wordings() -> list[list[str]]:
    """Of each caption, in the captions' order."""
    return [training_captions(site, severity) for site in SITES for severity in Severity]


def _embedded_without_dropout(model: SiteModel, texts: list[str]) -> Tensor:
    """Embedded once, for the whole run: a text tower's dropout (BERT's are born with it) must not be frozen in."""
    was_training = model.training
    model.eval()
    text_MD = model.embed_texts(texts)
    model.train(was_training)
    return text_MD
