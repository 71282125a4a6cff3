"""A training step at 128³ on a GPU: precision, memory layout, compilation, CUDA graphs, against nidl's defaults.

``python benchmarks/gpu.py [--batch_size 8] [--side 128] [--device cuda]``

The ceilings are measured on the same device: a large matrix product (float32 and bfloat16) and a copy of 1 GiB. "of the
roofline" is the largest of the two shares, of the matrix product's speed and of the copy's, that a step reaches; its
bytes are the least it must move: activations of each layer, weights, gradients and optimizer. ``--device cpu`` with
a small side tries the script without a GPU; its figures say nothing. A step is one between two measurements of the
template's curvature, which takes place every 50 batches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import fire
import peers
import torch
from measure import interleaved, median, ratio, report
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from monai_betavae.networks.acceleration import accelerate

MODES: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"half": True},
    "bf16, channels last": {"half": True, "channels_last": True},
    "bf16, compiled": {"half": True, "compile": True},
    "bf16, channels last, compiled": {"half": True, "channels_last": True, "compile": True},
    "bf16, CUDA graph": {"half": True, "graph": True},
    "bf16, channels last, CUDA graph": {"half": True, "channels_last": True, "graph": True},
}


def wait(device: str) -> None:
    """Wait until the device has nothing left to do."""
    if device == "cuda":
        torch.cuda.synchronize()


def make_step(images: Tensor, build: Callable[[], Any], mode: dict[str, Any], fused: bool) -> Callable[[], None]:
    """Return a training step of a model in one mode, on static images."""
    device = images.device.type
    vae = build().to(device).train()
    if mode.get("channels_last"):
        # the convolutions only: torch wants five axes of every tensor that has four, such as the mean image
        vae.encoder.body.to(memory_format=torch.channels_last_3d)
        images = images.to(memory_format=torch.channels_last_3d)
    if mode.get("compile"):
        accelerate(vae, compile=True)
    graph_wanted = bool(mode.get("graph")) and device == "cuda"
    options = {"fused": True} if fused else {}
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-4, capturable=graph_wanted, **options)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16) if mode.get("half") else contextlib.nullcontext():
            loss = vae.training_step(images, 0)["loss"]
        loss.backward()
        optimizer.step()

    if not graph_wanted:
        return step
    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side_stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    # a graph holds addresses only: without its model, optimizer and images it would write into the memory of others
    def replay(_kept: Any = (vae, optimizer, images)) -> None:
        graph.replay()

    return replay


def least_bytes(vae: nn.Module, images: Tensor, half: bool) -> int:
    """Return the bytes a step must move at least: each layer's output written and read, forward and backward."""
    moved = []
    hooks = [
        module.register_forward_hook(lambda _m, _i, out: moved.append(out.numel()) if isinstance(out, Tensor) else None)
        for module in vae.modules()
        if not list(module.children())
    ]
    vae.training_step(images, 0)
    for hook in hooks:
        hook.remove()
    weights = sum(weight.numel() for weight in vae.parameters())
    # out and in, forward and backward; weights read twice, gradients written and read, AdamW's two moments and weights
    return sum(moved) * 4 * (2 if half else 4) + weights * 4 * 10


def ceilings(device: str) -> dict[str, float]:
    """Return TFLOP/s of matrix products and GB/s of a copy on the device."""
    size = 8192 if device == "cuda" else 512
    found = {}
    for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        matrix = torch.rand(size, size, device=device, dtype=kind)

        def product(matrix: Tensor = matrix) -> None:
            matrix @ matrix
            wait(device)

        found[name] = 2 * size**3 / median(interleaved({"product": product}, 5)["product"]) / 1e12
    source = torch.empty(2**28 if device == "cuda" else 2**22, device=device)

    def copy() -> None:
        source.clone()
        wait(device)

    found["GB/s"] = 2 * 4 * source.numel() / median(interleaved({"copy": copy}, 5)["copy"]) / 1e9
    return found


def main(batch_size: int = 8, side: int = 128, device: str = "cuda", n_rounds: int = 10) -> None:
    """Measure all modes of our default network, and nidl's estimator around the plain networks as it comes."""
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("This benchmark needs a CUDA device; none was found. --device cpu only tries the script.")
    shape = (side,) * 3
    volumes = peers.brain_like(40, shape)
    images = volumes[:batch_size].to(device)

    def ours() -> Any:
        return peers.our_vae(shape, volumes, **next(iter(peers.OURS.values())))

    def plain() -> Any:
        return peers.our_vae(shape, architecture="plain", warm_start="none", act="prelu")

    def nidl() -> Any:
        built, kind = plain(), peers.nidl_vae()
        theirs = kind(built.encoder, built.decoder, built.encoder_out_dim, peers.LATENT_DIM, random_state=0)
        theirs.log_dict = lambda *_, **__: None  # logging needs a Trainer; without it a step is faster
        theirs.log = lambda *_, **__: None
        return theirs

    baseline = "nidl 0.0.2, plain networks, fp32"
    steps: dict[str, Callable[[], None]] = {baseline: make_step(images, nidl, {}, fused=False)}
    modes = MODES if device == "cuda" else {name: mode for name, mode in MODES.items() if "compile" not in mode}
    steps.update({f"ours, {name}": make_step(images, ours, mode, fused=True) for name, mode in modes.items()})

    def timed(step: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            step()
            wait(device)

        return run

    seconds = interleaved({name: timed(step) for name, step in steps.items()}, n_rounds, n_warmup=3)
    limits = ceilings(device)
    with FlopCounterMode(display=False) as counter:
        make_step(images, ours, {}, fused=True)()
    flops, vae = counter.get_total_flops(), ours().to(device).train()
    rows = []
    for name, taken in seconds.items():
        row: dict[str, Any] = {"step": name, "seconds": median(taken), "times faster": ratio(seconds[baseline], taken)}
        if name != baseline:
            half = "bf16" in name
            arithmetic = flops / median(taken) / 1e12 / limits["bf16" if half else "fp32"]
            bandwidth = least_bytes(vae, images, half) / median(taken) / 1e9 / limits["GB/s"]
            row.update({"of the matrix product": arithmetic, "of the bandwidth": bandwidth})
            row["of the roofline"] = max(arithmetic, bandwidth)
        rows.append(row)
    rows = [{key: row.get(key) for key in rows[-1]} for row in rows]
    heading = f"Batches of {batch_size} volumes of {side}³; ceilings: " + ", ".join(
        f"{name} {value:.3g}{'' if name == 'GB/s' else ' TFLOP/s'}" for name, value in limits.items()
    )
    report(
        "gpu" if device == "cuda" else "gpu_tried_on_cpu", "GPU: a training step", {heading: rows}, notes=__doc__ or ""
    )


if __name__ == "__main__":
    fire.Fire(main)
