"""Random streams are independent of each other, and repeatable."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from runs.random_streams import Stream, random_stream, torch_seed
from tests.tiny_model import tiny_towers
from vl_model.model.lora import add_adapters
from vl_model.model.settings import LoraSettings, ModelSettings
from vl_model.model.site_model import SiteModel
from vl_model.training.trainer import Trainer


def test_no_two_indices_share_numbers() -> None:
    """An index and the same one followed by zeros differ too, unlike numpy's generators seeded with such tuples."""
    assert np.random.default_rng((7, 3)).random() == np.random.default_rng((7, 3, 0, 0)).random()
    indices = [index for length in range(4) for index in product(range(3), repeat=length)]
    drawn = [random_stream(seed, stream, *index).random() for seed in (0, 7) for stream in Stream for index in indices]
    assert len(set(drawn)) == len(drawn) == 2 * len(Stream) * len(indices)
    assert random_stream(7, Stream.SAMPLE, 1, 2, 0).random() == random_stream(7, Stream.SAMPLE, 1, 2, 0).random()


def test_seeds_that_differ_beyond_32_bits_give_different_streams() -> None:
    seeds = (0, 1, 2**32, 2**32 + 1, 2**63)
    assert len({torch_seed(seed, Stream.IMAGE_DROPOUT, 1, 0, 0) for seed in seeds}) == len(seeds)


@pytest.mark.usefixtures("tiny_base")
def test_dropout_is_equal_in_all_processes_for_texts_and_differs_for_images() -> None:
    """Each process computes the loss with its own embeddings of the captions, which must therefore be equal."""
    towers = tiny_towers()
    lora = LoraSettings(dropout=0.5, towers="both")
    add_adapters(towers, lora)
    for name, parameter in towers.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model = SiteModel(towers, ModelSettings("tiny", tune="lora", lora=lora)).train()
    tiles_BT3HW = torch.randn(2, 1, 3, towers.image_size, towers.image_size)
    mask_BT, token_KL = torch.ones(2, 1, dtype=torch.bool), towers.tokenize(["severe", "normal"])

    def embed(process: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        of_process = SimpleNamespace(seed=1, accelerator=SimpleNamespace(process_index=process))
        seeds = Trainer._dropout_seeds(of_process, step, 0)  # type: ignore[arg-type]
        image_BD, text_KD, *_ = model(tiles_BT3HW, mask_BT, token_KL, seeds)
        return image_BD, text_KD

    first, second, again, later = embed(0, 1), embed(1, 1), embed(0, 1), embed(0, 2)
    assert torch.equal(first[1], second[1]) and not torch.allclose(first[0], second[0])
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.allclose(first[1], later[1]) and not torch.allclose(first[0], later[0])


@pytest.mark.parametrize("index", [(-1,), (1.5,)])
def test_an_index_consists_of_non_negative_integers(index: tuple[int]) -> None:
    with pytest.raises((ValueError, TypeError)):
        random_stream(0, Stream.ORDER, *index)
