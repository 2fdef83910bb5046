"""Speed of an image tower with each memory layout of its tiles, on one core.

    python -m benchmarks.layouts --model RN50
    python -m benchmarks.layouts --model local-dir:data/bases/lite0-128 --tune lora

Times forward and backward passes of the image tower by CPU time, with tiles that have their channels first and last,
alternately; the fastest pass of each layout counts. Training and evaluation give every tower channels-last tiles.
"""

import argparse
import time

import torch
from torch import Tensor

from benchmarks.comparison import print_row
from benchmarks.machine import describe_machine
from vl_model.model.settings import ModelSettings
from vl_model.model.site_model import SiteModel, build_site_model
from vl_model.towers.depthwise import use_float32_depthwise

LAYOUTS = {"first": torch.contiguous_format, "last": torch.channels_last}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="RN50", help="the base, as train_vl.py's --model (default: %(default)s)")
    parser.add_argument("--tune", default="full", choices=("full", "lora"), help="(default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=32, help="tiles per pass (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=5, help="passes per layout (default: %(default)s)")
    settings = parser.parse_args()
    describe_machine("torch", "open_clip_torch")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_site_model(ModelSettings(settings.model, tune=settings.tune)).train()
    size = model.towers.image_size
    tile_N3HW = torch.randn(settings.batch_size, 3, size, size)
    for precision in (torch.float32, torch.bfloat16):
        if precision is torch.bfloat16:
            use_float32_depthwise(model)  # as training does
        name = str(precision).removeprefix("torch.")
        print(f"\n{settings.model}, {settings.tune}, {size} pixels, {name}, {settings.batch_size} tiles, CPU time")
        seconds = dict.fromkeys(LAYOUTS, float("inf"))
        seconds_of_pass(model, tile_N3HW, precision)  # the first pass also prepares
        for _ in range(settings.turns):
            for layout, memory_format in LAYOUTS.items():
                tiles = tile_N3HW.contiguous(memory_format=memory_format)
                seconds[layout] = min(seconds[layout], seconds_of_pass(model, tiles, precision))
        for layout, least in seconds.items():
            print_row(f"channels {layout}, seconds", f"{least:.3f}")
        print_row("channels last relative to first, speed", f"{seconds['first'] / seconds['last']:.2f}")


def seconds_of_pass(model: SiteModel, tile_N3HW: Tensor, precision: torch.dtype) -> float:
    """Return the CPU time of one forward and backward pass of the image tower."""
    begin = time.process_time()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision is torch.bfloat16):
        image_ND = model.towers.encode_images(tile_N3HW)
    image_ND.float().square().sum().backward()
    model.zero_grad(set_to_none=True)
    return time.process_time() - begin


if __name__ == "__main__":
    main()
