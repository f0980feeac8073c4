#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The notebook's training in PyTorch, with its loop over the steps replaced by one call of libnca.

  pip install '.[torch]' pillow                       # in the repository's root; docs/python.md has more
  python examples/notebook.py data/lizard.png         # 8000 iterations; a GPU is used where there is one
  python examples/notebook.py data/lizard.png --iterations 500 --loop     # the notebook's own loop, to compare

The lines with a star are those that differ from the notebook's. Writes lizard.safetensors, which
`nca grow` and libnca.Model.load read, and lizard.png, eight states of its growth.
"""

import argparse
import pathlib
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image

import libnca  # *
import libnca.functional  # *

SIZE = 40
BATCH = 8
RULE = libnca.Rule.notebook().without_identity()  # * as the notebook prints it: a filter of zeros


class NCAModel(nn.Module):
    """The notebook's network, with its names."""

    def __init__(self, n_channels=16):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(n_channels * 3, 128, 1),
            nn.ReLU(),
            nn.Conv2d(128, n_channels, 1, bias=False),
        )
        with torch.no_grad():
            self.net[-1].weight.zero_()

    def forward(self, x, steps, key):
        first, _, last = self.net  # *
        return libnca.functional.rollout(  # *
            x, first.weight, first.bias, last.weight, steps=steps, rule=RULE, key=key
        )


class NotebookLoop(NCAModel):
    """The same with the notebook's own loop: --loop."""

    def __init__(self):
        super().__init__()
        sobel_x = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
        kernels = torch.stack([torch.zeros(3, 3), sobel_x, sobel_x.T])
        self.register_buffer("kernels", kernels[:, None], persistent=False)

    def step(self, x):
        b, c, h, w = x.shape
        y = F.pad(x.reshape(b * c, 1, h, w), (1, 1, 1, 1), mode="circular")
        y = self.net(F.conv2d(y, self.kernels).reshape(b, -1, h, w))
        update_mask = (torch.rand(b, 1, h, w, device=x.device) + 0.5).floor()
        x = x + y * update_mask
        alive = F.max_pool2d(F.pad(x[:, 3:4], (1, 1, 1, 1), mode="circular"), 3, stride=1) > 0.1
        return x * alive

    def forward(self, x, steps, key):
        for _ in range(steps):
            x = self.step(x)
        return x


def load_image(path, device):
    image = Image.open(path).convert("RGBA").resize((SIZE, SIZE))
    array = np.array(image, dtype=np.float32) / 255.0
    return torch.tensor(array).permute(2, 0, 1)[None].to(device)


def make_seed(device):
    seed = torch.zeros(1, 16, SIZE, SIZE, device=device)
    seed[0, 3, SIZE // 2, SIZE // 2] = 1.0
    return seed


def picture_of(model, states=8, steps=96):
    """Its growth, states side by side, each cell a square of 4 x 4 pixels."""
    simulator = libnca.Simulator(model, size=(SIZE, SIZE))
    frames = [simulator.picture()]
    for _ in range(states - 1):
        simulator.step(steps // (states - 1))
        frames.append(simulator.picture())
    strip = np.concatenate(frames, axis=1).repeat(4, axis=0).repeat(4, axis=1)
    picture = Image.new("RGBA", (strip.shape[1], strip.shape[0]), "white")
    picture.alpha_composite(Image.fromarray(strip))
    return picture


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=pathlib.Path)
    parser.add_argument("--iterations", type=int, default=8000)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("lizard"))
    parser.add_argument("--loop", action="store_true", help="the notebook's own loop")
    arguments = parser.parse_args()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)

    target = load_image(arguments.image, device)
    model = (NotebookLoop() if arguments.loop else NCAModel()).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9999)
    model_input = make_seed(device).repeat(BATCH, 1, 1, 1)
    if not arguments.loop:
        model_input = model_input.contiguous(memory_format=torch.channels_last)  # *
    target_batch = target.repeat(BATCH, 1, 1, 1)

    start = time.perf_counter()
    for i in range(arguments.iterations):
        optimizer.zero_grad()
        n_steps = torch.randint(64, 96, (1,)).item()
        output = model(model_input, n_steps, libnca.Key(seed=0, iteration=i))  # *
        loss = F.mse_loss(output[:, :4], target_batch)
        loss.backward()
        optimizer.step()
        scheduler.step()
        if i % 100 == 0 or i == arguments.iterations - 1:
            each = (time.perf_counter() - start) / (i + 1)
            print(f"iteration {i}: loss {loss.item():.6f}, {each * 1000:.1f} ms each", flush=True)

    trained = libnca.Model(  # *
        RULE, *(p.detach().cpu().numpy() for p in model.parameters())
    )
    trained.save(arguments.output.with_suffix(".safetensors"))
    picture_of(trained).save(arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
