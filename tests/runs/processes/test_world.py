"""The processes of a start, from complete, incomplete, contradictory and left-over variables."""

import pytest

from runs.processes.world import World, read_world

MEETING = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
TORCH = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", **MEETING}


@pytest.mark.parametrize(
    ("environment", "world"),
    [
        ({}, World()),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", **MEETING}, World(by="torch")),
        ({"RANK": "-1", "LOCAL_RANK": "-1", "WORLD_SIZE": ""}, World()),
        ({"PMI_SIZE": "1", "PMI_RANK": "0"}, World()),
        # `accelerate launch` of one process, with and without a port.
        ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}, World()),
        ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}, World()),
        (TORCH, World(4, 3, 2, 1, "torch")),
        # One torchrun per task of mpirun: torch's variables are those of the training.
        (TORCH | {"PMI_SIZE": "2", "PMI_RANK": "1"}, World(4, 3, 2, 1, "torch")),
        (
            {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"},
            World(2, 1, 2, 1, "Open MPI"),
        ),
        (
            {"RANK": "5", "WORLD_SIZE": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", **MEETING},
            World(8, 5, 1, 1, "torch"),
        ),
    ],
)
def test_the_world_of_a_launcher(environment: dict[str, str], world: World) -> None:
    assert read_world(environment) == world


@pytest.mark.parametrize(
    "left",
    [
        {"RANK": "1"},
        {"LOCAL_RANK": "2"},
        {"RANK": "3", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"},
        {"MASTER_ADDR": "node7", "MASTER_PORT": "29500"},
        {"RANK": "1", "WORLD_SIZE": "1"},
        {"WORLD_SIZE": "0", "RANK": "x"},
        {"PMI_RANK": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
    ],
)
def test_what_is_left_over_does_not_make_a_world(left: dict[str, str]) -> None:
    world = read_world(left)
    assert (world.size, world.rank, world.local_size, world.local_rank) == (1, 0, 1, 0)
    assert dict(world.ignored) == {name: value for name, value in left.items() if (name, value) != ("WORLD_SIZE", "1")}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"MASTER_ADDR": "", "MASTER_PORT": ""}, "WORLD_SIZE=4, but MASTER_ADDR and MASTER_PORT are not set"),
        ({"RANK": ""}, "WORLD_SIZE=4, but RANK is not set"),
        ({"RANK": "4"}, "RANK=4 and WORLD_SIZE=4: there is no such process"),
        ({"RANK": "first"}, "RANK='first': should be a whole number"),
        ({"WORLD_SIZE": "2.0"}, "WORLD_SIZE='2.0': should be a whole number"),
        ({"WORLD_SIZE": "٣"}, "should be a whole number"),
        ({"LOCAL_RANK": ""}, "WORLD_SIZE=4, but LOCAL_RANK is not set"),
        ({"LOCAL_WORLD_SIZE": "8"}, "LOCAL_WORLD_SIZE=8 and WORLD_SIZE=4 contradict each other"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT='0': should be a port"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT='65536': should be a port"),
    ],
)
def test_an_incomplete_world_is_refused_with_a_remedy(change: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        read_world(TORCH | change)
    assert "left over from a job" in str(refused.value)
