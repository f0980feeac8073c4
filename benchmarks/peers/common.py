# SPDX-License-Identifier: MIT
"""What the peers share: the presets, the target, the weights' file, the clock and the report.

A peer makes an object with the methods
  iterate()  queues one training iteration and need not wait for it,
  wait()     waits until all queued iterations are done, and returns the last loss,
and hands it to measure(). A peer whose packages are missing ends with exit code 77. Needs numpy.
"""
import argparse
import dataclasses
import json
import math
import os
import pathlib
import resource
import statistics
import struct
import sys
import time
import zlib

NOT_INSTALLED = 77


def not_installed(reason):
    print(f"{pathlib.Path(sys.argv[0]).stem}: not installed: {reason}", file=sys.stderr)
    sys.exit(NOT_INSTALLED)


try:
    import numpy as np
except ModuleNotFoundError as error:
    not_installed(error)

CHANNELS, HIDDEN, FILTERS = 16, 128, 3
BATCH = 8
LIVING = 0.1
FIRE_RATE = 0.5
QUEUES = 3  # how often --iterations iterations are queued and timed as a whole
LIZARD = pathlib.Path(__file__).resolve().parents[2] / "data" / "lizard.png"


@dataclasses.dataclass(frozen=True)
class Preset:
    circular: bool  # edges; otherwise zero
    sobel_scale: float
    pre_and_post: bool  # a cell must live before the step and after it; otherwise after it
    output_bias: bool
    glorot: bool  # first layer, with a zero bias; otherwise PyTorch's default
    start_hidden: float  # the start cell's hidden channels; its alpha is 1
    padding: int  # empty cells around the target
    premultiplied: bool  # the target's alpha
    normalise: bool  # each gradient by its norm


PRESETS = {
    "notebook": Preset(circular=True, sobel_scale=1.0, pre_and_post=False, output_bias=False,
                       glorot=False, start_hidden=0.0, padding=0, premultiplied=False,
                       normalise=False),
    "growing": Preset(circular=False, sobel_scale=1 / 8, pre_and_post=True, output_bias=True,
                      glorot=True, start_hidden=1.0, padding=16, premultiplied=True,
                      normalise=True),
}

# A loaded model is trained further with the learning rate of iteration 0, which has hardly fallen
# after 500 iterations.
LEARNING_RATE = 2e-3
NOTEBOOK_DECAY = 0.9999  # each iteration
GROWING_DROP_AT, GROWING_DROP = 2000, 0.1


def learning_rate(preset, iteration):
    if preset == "notebook":
        return LEARNING_RATE * NOTEBOOK_DECAY**iteration
    return LEARNING_RATE * (GROWING_DROP if iteration >= GROWING_DROP_AT else 1.0)


def filters(sobel_scale):
    """[3, 3, 3]: identity, Sobel x and Sobel y, cross-correlated."""
    identity = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], np.float32)
    sobel_x = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32) * np.float32(sobel_scale)
    return np.stack([identity, sobel_x, sobel_x.T])


def read_png(path):
    """[height, width, 4] in 0..1 from a PNG of 8-bit RGBA without interlacing."""
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
    pixels = np.frombuffer(b"".join(rows[1:]), np.uint8).reshape(height, width, 4)
    return pixels.astype(np.float32) / 255


def resize_matrix(to, size):
    """[to, size]: linear interpolation. Shrinking widens it, so that it does not alias."""
    scale = size / to
    centres = (np.arange(to)[:, None] + 0.5) * scale
    distance = np.abs(np.arange(size)[None] + 0.5 - centres) / max(scale, 1.0)
    weights = np.maximum(1.0 - distance, 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def target_of(preset, path):
    """[side, side, 4]: 40 with straight alpha for notebook, 72 with premultiplied for growing."""
    image = read_png(path).astype(np.float64)
    image[..., :3] *= image[..., 3:]
    image = np.einsum("yi,xj,ijc->yxc", resize_matrix(40, image.shape[0]),
                      resize_matrix(40, image.shape[1]), image)
    if not PRESETS[preset].premultiplied:
        image[..., :3] /= np.maximum(image[..., 3:], 1 / 255)
        image = image.clip(0, 1)
    padding = PRESETS[preset].padding
    return np.pad(image, ((padding, padding), (padding, padding), (0, 0))).astype(np.float32)


def start_of(preset, side):
    """[batch, side, side, 16]: one living cell in the middle of each."""
    start = np.zeros((BATCH, side, side, CHANNELS), np.float32)
    start[:, side // 2, side // 2, 3] = 1
    start[:, side // 2, side // 2, 4:] = PRESETS[preset].start_hidden
    return start


def initial_weights(preset):
    """With the names and shapes of the model files."""
    rng = np.random.default_rng(0)
    inputs = CHANNELS * FILTERS
    bound = math.sqrt(6 / (inputs + HIDDEN)) if PRESETS[preset].glorot else 1 / math.sqrt(inputs)
    bias_bound = 0.0 if PRESETS[preset].glorot else bound
    weights = {
        "net.0.weight": rng.uniform(-bound, bound, (HIDDEN, inputs, 1, 1)),
        "net.0.bias": rng.uniform(-bias_bound, bias_bound, HIDDEN),
        "net.2.weight": np.zeros((CHANNELS, HIDDEN, 1, 1)),
    }
    if PRESETS[preset].output_bias:
        weights["net.2.bias"] = np.zeros(CHANNELS)
    return {name: values.astype(np.float32) for name, values in weights.items()}


def load_weights(path):
    """Reads the parameters alone from a model or checkpoint (safetensors)."""
    data = pathlib.Path(path).read_bytes()
    (header_size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + header_size])
    weights = {}
    for name, entry in header.items():
        if not name.startswith("net."):
            continue
        if entry["dtype"] != "F32":
            sys.exit(f"{path}: {name} is {entry['dtype']}, expected F32")
        begin, end = (8 + header_size + offset for offset in entry["data_offsets"])
        weights[name] = np.frombuffer(data[begin:end], "<f4").reshape(entry["shape"])
    return weights


def weights_of(arguments):
    """The same weights for every peer. Ends the program where they are not the preset's tensors."""
    expected = initial_weights(arguments.preset)
    if not arguments.weights:
        return expected
    weights = load_weights(arguments.weights)
    shapes = {name: values.shape for name, values in weights.items()}
    if shapes != {name: values.shape for name, values in expected.items()}:
        sys.exit(f"{arguments.weights}: not the tensors of the preset {arguments.preset}: {shapes}")
    return weights


def parser(description, presets=tuple(PRESETS)):
    """The options of every peer."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--preset", choices=presets, default=presets[0])
    options.add_argument("--steps", type=int, default=80, help="of each iteration (80)")
    options.add_argument("--iterations", type=int, default=5, help="timed (5)")
    options.add_argument("--warmup-iterations", type=int, default=2,
                         help="of training before the clock starts (2)")
    options.add_argument("--weights", metavar="FILE", help="start from this model's weights")
    options.add_argument("--target", metavar="PNG", type=pathlib.Path, default=LIZARD)
    options.add_argument("--threads", type=int, default=0, help="0: the framework's own choice")
    options.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options.add_argument("--tf32", action="store_true",
                         help="TF32 in products and convolutions instead of float32 (cuda only)")
    options.add_argument("--json", action="store_true")
    return options


def parse(options):
    arguments = options.parse_args()
    if arguments.tf32 and arguments.device != "cuda":
        options.error("--tf32 needs --device cuda")
    return arguments


def use_cores(count):
    """For frameworks that start a thread on each core that they may run on."""
    if count:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def usable_cores():
    return len(os.sched_getaffinity(0))


def peak_memory_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def summary(times):
    return {"median": statistics.median(times), "fastest": min(times), "slowest": max(times),
            "count": len(times)}


def measure(training, arguments):
    """Times the iterations in two ways, both in milliseconds for one iteration.

    training_ms waits for each of them. queued_training_ms (on a GPU, which has a queue) queues all
    and waits once, like a trainer that looks at the loss now and then.
    """
    for _ in range(arguments.warmup_iterations):
        training.iterate()
    if arguments.warmup_iterations:
        training.wait()
    times = []
    for _ in range(arguments.iterations):
        start = time.perf_counter()
        training.iterate()
        loss = training.wait()
        times.append((time.perf_counter() - start) * 1000)
    result = {"training_ms": summary(times)}
    if arguments.device == "cuda":
        times = []
        for _ in range(QUEUES):
            start = time.perf_counter()
            for _ in range(arguments.iterations):
                training.iterate()
            loss = training.wait()
            times.append((time.perf_counter() - start) * 1000 / arguments.iterations)
        result["queued_training_ms"] = summary(times)
    if not math.isfinite(loss):
        sys.exit(f"{pathlib.Path(sys.argv[0]).stem}: the loss is {loss}; its times mean nothing")
    result["loss"] = loss
    return result


def print_report(arguments, side, measured, peak_device_memory_bytes=None, **about):
    """about: engine, device, threads and what else describes this run."""
    milliseconds = min(measured[way]["median"] for way in ("training_ms", "queued_training_ms")
                       if way in measured)
    row = {
        "name": arguments.preset,
        "batch": BATCH,
        "height": side,
        "width": side,
        "steps": arguments.steps,
        **measured,
        "cell_steps_per_second": BATCH * side * side * arguments.steps / milliseconds * 1000,
        "peak_memory_bytes": peak_memory_bytes(),
    }
    if peak_device_memory_bytes is not None:
        row["peak_device_memory_bytes"] = peak_device_memory_bytes
    precision = "tf32" if arguments.tf32 else "float32"
    if arguments.json:
        print(json.dumps({**about, "precision": precision, "rows": [row]}))
        return
    print(", ".join(f"{key} {value}" for key, value in about.items()), end="")
    print(f", {precision}: training {arguments.preset}, batch {BATCH}, {side}x{side}, "
          f"{arguments.steps} steps")
    for way, text in (("training_ms", "each waited for"), ("queued_training_ms", "queued")):
        if way in measured:
            times = measured[way]
            print(f"  {times['median']:.1f} ms per iteration, {text} (median of {times['count']}, "
                  f"{times['fastest']:.1f} to {times['slowest']:.1f})")
    print(f"  peak memory {row['peak_memory_bytes'] * 1e-6:.0f} MB", end="")
    if peak_device_memory_bytes is not None:
        print(f", of the device {peak_device_memory_bytes * 1e-6:.0f} MB", end="")
    print(f", loss {measured['loss']:.3g}")
