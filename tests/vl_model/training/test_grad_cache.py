"""The gradient of a pool of parts equals that of one large batch."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.runs.processes.test_collectives import Model, embeddings_and_targets, in_processes
from tests.training_runs import Train, final, metrics
from vl_model.data.targets import Targets
from vl_model.training.grad_cache import Embedded, backward_through_pool
from vl_model.training.loss import contrastive_loss

PARTS = 3


def write_gradient_of_pool(world: int, folder: Path) -> None:
    """Each process has its share of each part; DDP takes the mean over processes, as in training."""
    feature_NF, text_KF, targets = embeddings_and_targets()
    rank = torch.distributed.get_rank()
    own = torch.arange(len(feature_NF)).unflatten(0, (PARTS, world, -1))[:, rank]  # parts, rows
    model = Model()
    model.bias.requires_grad_(False)  # this loss does not use it, and DDP waits for every gradient
    wrapped = nn.parallel.DistributedDataParallel(model)

    def embed(part: int) -> Embedded:
        image_BD, text_KD, scale, bias = wrapped(feature_NF[own[part]], text_KF)
        return image_BD, text_KD, scale, bias

    pool = own.flatten()
    backward_through_pool(
        PARTS,
        embed,
        lambda found: contrastive_loss(
            *found[:3], Targets(targets.caption_B[pool], targets.grade_B3[pool], targets.partner_log_rate_B[pool])
        ),
        lambda total: total.backward(),
        lambda is_last: nullcontext() if is_last else wrapped.no_sync(),
    )
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    torch.save(gradients, folder / f"{rank}.pt")


@pytest.mark.parametrize("world", [1, 2])
def test_a_pool_has_the_gradient_of_one_batch(world: int, tmp_path: Path) -> None:
    feature_NF, text_KF, targets = embeddings_and_targets()
    model = Model()
    image_ND, text_KD, scale, _ = model(feature_NF, text_KF)
    contrastive_loss(image_ND, text_KD, scale, targets).total.backward()
    in_processes(world, write_gradient_of_pool, world, tmp_path)
    expected = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert len(expected) == 5
    for rank in range(world):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, gradient in expected.items():
            assert (found[name] - gradient).norm() < 1e-12 * gradient.norm(), name


def test_a_run_with_cached_negatives_equals_a_run_with_large_batches(train: Train, tiny_root: Path) -> None:
    both = ["--max_train_steps", "5", "--lora_towers", "both", "--learning_rate", "1e-3", "--warmup_ratio", "0"]
    parts = ["--per_device_train_batch_size", "5", "--gradient_accumulation_steps", "4"]
    assert train("large", *both, "--per_device_train_batch_size", "20") == 0
    assert train("pooled", *both, *parts, "--cache_negatives", "true", "--gradient_checkpointing", "true") == 0
    assert train("apart", *both, *parts) == 0
    large, pooled, apart = (
        [float(row["loss"]) for row in metrics(tiny_root, run)] for run in ("large", "pooled", "apart")
    )
    assert pooled == pytest.approx(large, rel=1e-5) and apart[0] != pytest.approx(large[0], rel=1e-3)
    first, second = final(tiny_root, "large"), final(tiny_root, "pooled")
    assert all(torch.allclose(first[name], second[name], atol=2e-4) for name in first)


def test_dropout_is_the_same_in_both_forward_passes(train: Train, tiny_root: Path) -> None:
    """Otherwise the cached gradients would belong to other embeddings, which no other test would detect."""
    from vl_model.training import trainer as training

    embedded: list[torch.Tensor] = []
    embed = training.Trainer._embed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            training.Trainer,
            "_embed",
            lambda self, *given, **named: (embedded.append((out := embed(self, *given, **named))[0].detach()), out)[1],
        )
        arguments = ["--max_train_steps", "1", "--lora_dropout", "0.5", "--per_device_train_batch_size", "5"]
        parts = ["--gradient_accumulation_steps", "3", "--cache_negatives", "true"]
        assert train("dropped", *arguments, *parts, "--lora_towers", "both") == 0
    assert len(embedded) == 6 and all(torch.equal(embedded[part], embedded[part + 3]) for part in range(3))
