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


def test_no_two_places_share_their_numbers() -> None:
    """Nor does a place share them with the same one and zeros behind it, as numpy's plain tuples do."""
    assert np.random.default_rng((7, 3)).random() == np.random.default_rng((7, 3, 0, 0)).random()
    places = [place for length in range(4) for place in product(range(3), repeat=length)]
    drawn = [random_stream(seed, stream, *place).random() for seed in (0, 7) for stream in Stream for place in places]
    assert len(set(drawn)) == len(drawn) == 2 * len(Stream) * len(places)
    assert random_stream(7, Stream.SAMPLE, 1, 2, 0).random() == random_stream(7, Stream.SAMPLE, 1, 2, 0).random()


def test_seeds_beyond_32_bits_are_told_apart() -> None:
    seeds = (0, 1, 2**32, 2**32 + 1, 2**63)
    assert len({torch_seed(seed, Stream.IMAGE_DROPOUT, 1, 0, 0) for seed in seeds}) == len(seeds)


@pytest.mark.usefixtures("tiny_base")
def test_all_processes_drop_the_same_of_a_text_and_each_its_own_of_images() -> None:
    """Each computes the loss against its own embeddings of the captions: they have to be the same."""
    towers = tiny_towers()
    lora = LoraSettings(dropout=0.5, towers="both")
    add_adapters(towers, lora)
    for name, parameter in towers.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model = SiteModel(towers, ModelSettings("tiny", tune="lora", lora=lora)).train()
    tiles_BT3HW = torch.randn(2, 1, 3, towers.image_size, towers.image_size)
    mask_BT, token_KL = torch.ones(2, 1, dtype=torch.bool), towers.tokenize(["severe", "normal"])

    def seen(process: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        of_process = SimpleNamespace(seed=1, accelerator=SimpleNamespace(process_index=process))
        seeds = Trainer._dropout_seeds(of_process, step, 0)  # type: ignore[arg-type]
        image_BD, text_KD, *_ = model(tiles_BT3HW, mask_BT, token_KL, seeds)
        return image_BD, text_KD

    first, second, again, later = seen(0, 1), seen(1, 1), seen(0, 1), seen(0, 2)
    assert torch.equal(first[1], second[1]) and not torch.allclose(first[0], second[0])
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.allclose(first[1], later[1]) and not torch.allclose(first[0], later[0])


@pytest.mark.parametrize("place", [(-1,), (1.5,)])
def test_places_are_counted_from_zero(place: tuple[int]) -> None:
    with pytest.raises((ValueError, TypeError)):
        random_stream(0, Stream.ORDER, *place)
