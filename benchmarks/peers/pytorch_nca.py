#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The rule and the training iteration of the presets notebook and growing in PyTorch, timed.

Written as one would write it who wants speed and stays within plain PyTorch: perception is one
depthwise convolution (on a CPU nearly twice as fast as the notebook's, which folds the channels
into the batch), the fire mask is drawn on the device, nothing is copied that need not be. The timed
iterations take a fixed number of steps, everything else is training as it is.

  python3 benchmarks/peers/pytorch_nca.py --preset growing --threads 2 --iterations 5
"""
import argparse
import json
import math
import pathlib
import resource
import statistics
import struct
import sys
import time
import zlib

import torch
import torch.nn.functional as F

CHANNELS, HIDDEN, FILTERS = 16, 128, 3
BATCH = 8
LIVING = 0.1
LIZARD = pathlib.Path(__file__).resolve().parents[2] / "data" / "lizard.png"


def filters(sobel_scale):
    """[48, 1, 3, 3]: identity, Sobel x and Sobel y of each channel, as p[c * 3 + k]."""
    identity = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]])
    sobel_x = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) * sobel_scale
    return torch.stack([identity, sobel_x, sobel_x.T])[:, None].repeat(CHANNELS, 1, 1, 1)


class Automaton(torch.nn.Module):
    """Parameters have the names and shapes of the model files."""

    def __init__(self, circular, sobel_scale, pre_and_post, output_bias, glorot):
        super().__init__()
        self.circular, self.pre_and_post = circular, pre_and_post
        self.net = torch.nn.Sequential(
            torch.nn.Conv2d(CHANNELS * FILTERS, HIDDEN, 1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(HIDDEN, CHANNELS, 1, bias=output_bias),
        )
        self.register_buffer("filters", filters(sobel_scale), persistent=False)
        with torch.no_grad():
            if glorot:
                torch.nn.init.xavier_uniform_(self.net[0].weight)
                self.net[0].bias.zero_()
            for parameter in self.net[2].parameters():
                parameter.zero_()

    def perceive(self, x):
        if self.circular:
            return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), self.filters, groups=CHANNELS)
        return F.conv2d(x, self.filters, padding=1, groups=CHANNELS)

    def living(self, x):
        alpha = x[:, 3:4]
        if self.circular:
            return F.max_pool2d(F.pad(alpha, (1, 1, 1, 1), mode="circular"), 3, 1) > LIVING
        return F.max_pool2d(alpha, 3, 1, 1) > LIVING

    def forward(self, x):
        """One step, [batch, 16, height, width] to the same."""
        batch, _, height, width = x.shape
        fire = torch.rand(batch, 1, height, width, device=x.device) < 0.5
        z = x + self.net(self.perceive(x)) * fire
        life = self.living(z)
        if self.pre_and_post:
            life = life & self.living(x)
        return z * life


def read_png(path):
    """[4, height, width] in 0..1 from a PNG of 8-bit RGBA without interlacing."""
    data = path.read_bytes()
    compressed, at = b"", 8
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        chunk = data[at + 8 : at + 8 + size]
        if kind == b"IHDR":
            width, height, *layout = struct.unpack(">IIBBBBB", chunk)
            if layout != [8, 6, 0, 0, 0]:
                sys.exit(f"{path}: not a PNG of 8-bit RGBA without interlacing")
        elif kind == b"IDAT":
            compressed += chunk
        at += size + 12
    rows, raw = [bytearray(width * 4)], zlib.decompress(compressed)
    for y in range(height):
        predictor, *line = raw[y * (width * 4 + 1) : (y + 1) * (width * 4 + 1)]
        up = rows[-1]
        for i in range(width * 4):
            a, c = (line[i - 4], up[i - 4]) if i >= 4 else (0, 0)
            b = up[i]
            if predictor == 4:
                p = a + b - c
                guess = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            else:
                guess = (0, a, b, (a + b) // 2)[predictor]
            line[i] = (line[i] + guess) & 255
        rows.append(bytearray(line))
    pixels = torch.frombuffer(bytearray(b"".join(rows[1:])), dtype=torch.uint8)
    return pixels.view(height, width, 4).permute(2, 0, 1).float() / 255


def target_of(preset, path):
    """[4, 40, 40] with straight alpha, or [4, 72, 72] premultiplied."""
    image = read_png(path)
    colour, alpha = image[:3] * image[3:], image[3:]
    image = torch.cat([colour, alpha])[None]
    image = F.interpolate(image, size=(40, 40), mode="bilinear", antialias=True)[0]
    if preset == "growing":
        return F.pad(image, (16, 16, 16, 16))
    return torch.cat([image[:3] / image[3:].clamp(min=1 / 255), image[3:]]).clamp(0, 1)


def load_weights(model, path):
    """Reads the parameters, and only those, from a safetensors file."""
    data = bytearray(pathlib.Path(path).read_bytes())
    (header_size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + header_size])
    tensors = {}
    for name, entry in header.items():
        if not name.startswith("net."):
            continue
        if entry["dtype"] != "F32":
            sys.exit(f"{path}: {name} is {entry['dtype']}, expected F32")
        begin, end = entry["data_offsets"]
        values = torch.frombuffer(data, dtype=torch.uint8, count=end - begin,
                                  offset=8 + header_size + begin)
        tensors[name] = values.clone().view(torch.float32).view(entry["shape"])
    model.load_state_dict(tensors)


class Training:
    def __init__(self, arguments):
        growing = arguments.preset == "growing"
        self.device = torch.device(arguments.device)
        self.growing = growing
        torch.manual_seed(0)
        self.model = Automaton(circular=not growing, sobel_scale=1 / 8 if growing else 1,
                               pre_and_post=growing, output_bias=growing, glorot=growing)
        if arguments.weights:
            load_weights(self.model, arguments.weights)
        layout = (torch.channels_last if arguments.layout == "channels-last"
                  else torch.contiguous_format)
        self.model.to(self.device, memory_format=layout)
        target = target_of(arguments.preset, arguments.target)
        side = target.shape[-1]
        self.target = target.to(self.device).expand(BATCH, -1, -1, -1)
        start = torch.zeros(BATCH, CHANNELS, side, side, device=self.device)
        start[:, 3, side // 2, side // 2] = 1
        if growing:
            start[:, 4:, side // 2, side // 2] = 1
        self.start = start.to(memory_format=layout)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=2e-3)
        # A loaded model is trained on from where it is: its learning rate has hardly fallen yet.
        decay = (lambda i: 0.1 if i >= 2000 else 1.0) if growing else (lambda i: 0.9999**i)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, decay)
        self.step = torch.compile(self.model) if arguments.compile else self.model

    def iterate(self, steps):
        x = self.start
        for _ in range(steps):
            x = self.step(x)
        loss = F.mse_loss(x[:, :4], self.target)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.growing:
            for parameter in self.model.parameters():
                parameter.grad /= parameter.grad.norm() + 1e-8
        self.optimizer.step()
        self.schedule.step()
        return loss.item()  # waits for the device


def peak_memory_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=["notebook", "growing"], default="notebook")
    parser.add_argument("--steps", type=int, default=80, help="of each timed iteration (80)")
    parser.add_argument("--iterations", type=int, default=5, help="timed (5)")
    parser.add_argument("--warmup-iterations", type=int, default=2,
                        help="of training before the clock starts, 64 to 95 steps each (2)")
    parser.add_argument("--weights", metavar="FILE", help="start from this model's weights")
    parser.add_argument("--target", metavar="PNG", type=pathlib.Path, default=LIZARD)
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's own choice")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--layout", choices=["channels-last", "channels-first"],
                        default="channels-last", help="of the states in memory")
    parser.add_argument("--compile", action="store_true", help="the step by torch.compile")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    memory_before = peak_memory_bytes()
    training = Training(arguments)
    for _ in range(arguments.warmup_iterations):
        training.iterate(int(torch.randint(64, 96, ())))
    times, loss = [], math.nan
    for _ in range(arguments.iterations):
        start = time.perf_counter()
        loss = training.iterate(arguments.steps)
        times.append((time.perf_counter() - start) * 1000)
    if not math.isfinite(loss):
        sys.exit(f"pytorch_nca: the loss is {loss}; these times mean nothing")
    side = training.start.shape[-1]
    median = statistics.median(times)
    row = {
        "name": arguments.preset,
        "batch": BATCH,
        "height": side,
        "width": side,
        "steps": arguments.steps,
        "training_ms": {"median": median, "fastest": min(times), "slowest": max(times),
                        "count": len(times)},
        "cell_steps_per_second": BATCH * side * side * arguments.steps / median * 1000,
        "peak_memory_bytes": peak_memory_bytes(),
        "memory_after_import_bytes": memory_before,
        "loss": loss,
    }
    if arguments.device == "cuda":
        row["peak_device_memory_bytes"] = torch.cuda.max_memory_allocated()
    report = {
        "engine": f"PyTorch {torch.__version__}",
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "layout": arguments.layout,
        "compile": arguments.compile,
        "rows": [row],
    }
    if arguments.json:
        print(json.dumps(report))
        return
    print(f"{report['engine']}, {report['device']}, {report['threads']} threads: "
          f"training {arguments.preset}, batch {BATCH}, {side}x{side}, {arguments.steps} steps: "
          f"{median:.0f} ms per iteration (median of {len(times)}, {min(times):.0f} to "
          f"{max(times):.0f}), peak memory {row['peak_memory_bytes'] * 1e-6:.0f} MB, "
          f"loss {loss:.3g}")


if __name__ == "__main__":
    main()
