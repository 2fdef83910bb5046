"""The 75 captions with all their wordings, and the choice of wordings in each training step.

Captions are numbered as in `vl_model.data.site_rows.caption_index`. Each step chooses one wording of each caption, as a
function of (seed, step) alone, so that all processes, and a resumed run, choose the same.

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
    """The wordings of all captions, tokenized once and, if the text tower is frozen, also embedded once."""

    def __init__(self, model: SiteModel, seed: int) -> None:
        wordings = _wordings()
        self.seed = seed
        self.texts = [text for texts in wordings for text in texts]
        self._counts = np.array([len(texts) for texts in wordings])
        self._firsts = np.cumsum(self._counts) - self._counts
        self._token_ML = model.towers.tokenize(self.texts)
        self._text_MD = None if model.learns_text else _embedded_without_dropout(model, self.texts)

    def choose(self, step: int) -> np.ndarray:
        """Return the index into `texts` of each caption's wording in this step, shape (75,)."""
        draw_K = random_stream(self.seed, Stream.WORDINGS, step).random(len(self._counts))
        return self._firsts + (draw_K * self._counts).astype(int)

    def tokens(self, step: int) -> Tensor | None:
        """Return token_KL of this step's wordings; None if the text tower is frozen (see `embeddings`)."""
        return None if self._text_MD is not None else self._token_ML[torch.from_numpy(self.choose(step))]

    def embeddings(self, step: int) -> Tensor | None:
        """Return text_KD of this step's wordings if the text tower is frozen, else None."""
        return None if self._text_MD is None else self._text_MD[torch.from_numpy(self.choose(step))]

    def first_texts(self) -> list[str]:
        """Return the first wording of each caption, which held-out evaluation uses."""
        return [self.texts[first] for first in self._firsts]


def captions_sha256() -> str:
    """Return the SHA-256 of all wordings, by which a resumed run detects that they have changed."""
    return hashlib.sha256(json.dumps([text for texts in _wordings() for text in texts]).encode()).hexdigest()


def _wordings() -> list[list[str]]:
    """Return the wordings of each caption, in the order of the captions."""
    return [training_captions(site, severity) for site in SITES for severity in Severity]


def _embedded_without_dropout(model: SiteModel, texts: list[str]) -> Tensor:
    """Embed texts in evaluation mode.

    The embeddings serve for the whole run, so they must not contain one random draw of dropout, which BERT has.
    """
    was_training = model.training
    model.eval()
    text_MD = model.embed_texts(texts)
    model.train(was_training)
    return text_MD
