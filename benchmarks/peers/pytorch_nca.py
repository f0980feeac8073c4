#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The rule and the training iteration of the presets notebook and growing in PyTorch, timed.

This is plain PyTorch written for speed: perception is one depthwise convolution (on a CPU nearly
twice as fast as the notebook's, which folds the channels into the batch), the fire mask is drawn on
the device, Adam is fused, and there are no needless copies or waits. The timed iterations have a
fixed number of steps; everything else is as in training.

  python3 benchmarks/peers/pytorch_nca.py --preset growing --threads 2 --iterations 5
  python3 benchmarks/peers/pytorch_nca.py --preset growing --device cuda --mode graph --tf32

The modes: eager; compile (the step by torch.compile); graph (the whole iteration, from the first
step to Adam, is one CUDA graph); compile-graph (the compiled step in such a graph); libnca (the loop
over the steps is one call of libnca.functional.rollout, which is ours and not a peer's: what the
Python package makes of the same training).
"""
import common
from common import CHANNELS, FILTERS, FIRE_RATE, HIDDEN, LIVING

try:
    import torch
    import torch.nn.functional as F
except ModuleNotFoundError as error:
    common.not_installed(error)

WARMUP_OF_CAPTURE = 3


class Automaton(torch.nn.Module):
    """Parameters have the names and shapes of the model files."""

    def __init__(self, preset):
        super().__init__()
        self.preset = preset
        self.net = torch.nn.Sequential(
            torch.nn.Conv2d(CHANNELS * FILTERS, HIDDEN, 1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(HIDDEN, CHANNELS, 1, bias=preset.output_bias),
        )
        # [48, 1, 3, 3]: identity, Sobel x and Sobel y of each channel, as p[c * 3 + k].
        filters = torch.from_numpy(common.filters(preset.sobel_scale))
        self.register_buffer("filters", filters[:, None].repeat(CHANNELS, 1, 1, 1),
                             persistent=False)

    def perceive(self, x):
        if self.preset.circular:
            return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), self.filters, groups=CHANNELS)
        return F.conv2d(x, self.filters, padding=1, groups=CHANNELS)

    def living(self, x):
        alpha = x[:, 3:4]
        if self.preset.circular:
            return F.max_pool2d(F.pad(alpha, (1, 1, 1, 1), mode="circular"), 3, 1) > LIVING
        return F.max_pool2d(alpha, 3, 1, 1) > LIVING

    def forward(self, x):
        """One step, [batch, 16, height, width] to the same."""
        batch, _, height, width = x.shape
        fire = torch.rand(batch, 1, height, width, device=x.device) < FIRE_RATE
        z = x + self.net(self.perceive(x)) * fire
        life = self.living(z)
        if self.preset.pre_and_post:
            life = life & self.living(x)
        return z * life


def use_precision(tf32):
    """For products and convolutions; by default PyTorch takes TF32 for convolutions.

    This does not use the newer fp32_precision: parts of torch.compile still read these two, and
    PyTorch raises where one API is read after the other was set."""
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


class Training:
    def __init__(self, arguments):
        self.arguments = arguments
        self.preset = common.PRESETS[arguments.preset]
        self.device = torch.device(arguments.device)
        self.iteration = 0
        torch.manual_seed(0)
        self.model = Automaton(self.preset)
        self.model.load_state_dict({name: torch.tensor(values) for name, values
                                    in common.weights_of(arguments).items()})
        layout = (torch.channels_last if arguments.layout == "channels-last"
                  else torch.contiguous_format)
        self.model.to(self.device, memory_format=layout)

        target = torch.from_numpy(common.target_of(arguments.preset, arguments.target))
        self.side = target.shape[0]
        self.target = target.permute(2, 0, 1).to(self.device).expand(common.BATCH, -1, -1, -1)
        start = torch.from_numpy(common.start_of(arguments.preset, self.side))
        self.start = start.permute(0, 3, 1, 2).to(self.device).to(memory_format=layout)

        captured = arguments.mode in ("graph", "compile-graph")
        # A captured Adam reads its learning rate and its count of iterations from the device.
        self.learning_rate = (torch.tensor(common.LEARNING_RATE, device=self.device) if captured
                              else common.LEARNING_RATE)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.learning_rate,
                                          fused=True, capturable=captured)
        if arguments.mode == "libnca":
            import libnca
            import libnca.functional

            self.libnca = libnca
            self.rule = (libnca.Rule.notebook() if arguments.preset == "notebook"
                         else libnca.Rule.growing())
            if arguments.threads:
                libnca.set_threads(arguments.threads)
        self.step = (torch.compile(self.model) if arguments.mode.startswith("compile")
                     else self.model)
        self.graph = self.capture() if captured else None

    def roll_out(self, x):
        """All steps, [batch, 16, height, width] to the same."""
        steps = self.arguments.steps
        if self.arguments.mode == "libnca":
            first, _, last = self.model.net
            return self.libnca.functional.rollout(
                x, first.weight, first.bias, last.weight, last.bias, steps=steps, rule=self.rule,
                key=self.libnca.Key(iteration=self.iteration))
        for _ in range(steps):
            x = self.step(x)
        return x

    def update(self):
        """One training iteration from the start state to the new weights."""
        x = self.roll_out(self.start)
        loss = F.mse_loss(x[:, :4], self.target)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.preset.normalise:
            for parameter in self.model.parameters():
                parameter.grad /= parameter.grad.norm() + 1e-8
        self.optimizer.step()
        return loss.detach()

    def capture(self):
        """Choosing algorithms, compiling and making Adam's state may not happen during a capture.
        They happen in iterations before it, on its stream."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_OF_CAPTURE):
                self.update()
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            self.loss = self.update()
        return graph

    def iterate(self):
        rate = common.learning_rate(self.arguments.preset, self.iteration)
        self.iteration += 1
        if self.graph:
            self.learning_rate.fill_(rate)
            self.graph.replay()
        else:
            self.optimizer.param_groups[0]["lr"] = rate
            self.loss = self.update()

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return self.loss.item()


def parse_arguments():
    options = common.parser(__doc__.splitlines()[0])
    options.add_argument("--mode", choices=["eager", "compile", "graph", "compile-graph",
                                             "libnca"],
                         default="eager", help="eager unless given; the graphs on cuda only")
    options.add_argument("--layout", choices=["channels-last", "channels-first"],
                         default="channels-last", help="of the states in memory")
    arguments = common.parse(options)
    if arguments.mode.endswith("graph") and arguments.device != "cuda":
        options.error(f"--mode {arguments.mode} needs --device cuda")
    if arguments.mode == "libnca" and arguments.layout != "channels-last":
        options.error("--mode libnca needs --layout channels-last")
    return arguments


def main():
    arguments = parse_arguments()
    cuda = arguments.device == "cuda"
    if cuda and not torch.version.cuda:
        common.not_installed("this PyTorch is built without CUDA")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    use_precision(arguments.tf32)
    torch.backends.cudnn.benchmark = True  # sizes are fixed: let it look for the fastest algorithm
    training = Training(arguments)
    common.print_report(
        arguments, training.side, common.measure(training, arguments),
        torch.cuda.max_memory_allocated() if cuda else None,
        engine=f"PyTorch {torch.__version__}",
        mode=arguments.mode,
        device=torch.cuda.get_device_name() if cuda else "cpu",
        layout=arguments.layout,
        threads=torch.get_num_threads(),
        cuda=torch.version.cuda if cuda else None)


if __name__ == "__main__":
    main()
