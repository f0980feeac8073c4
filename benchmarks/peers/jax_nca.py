#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The rule and the training iteration of the presets notebook and growing in JAX, timed.

This is plain JAX written for speed: the whole iteration is one jitted function, the steps are a
scan, channels are last, the old weights' memory is donated, and the iteration's number, its random
key and its learning rate stay on the device. Perception is sums of shifted states, which on a CPU
took about a fifth less time than a depthwise convolution.

  python3 benchmarks/peers/jax_nca.py --preset growing --threads 2 --iterations 5
  python3 benchmarks/peers/jax_nca.py --preset growing --device cuda --tf32 --remat
"""
import functools
import pkgutil

import common
from common import CHANNELS, FILTERS, FIRE_RATE, HIDDEN, LIVING

try:
    import jax
    import jax.numpy as jnp
    from jax import lax
except ModuleNotFoundError as error:
    common.not_installed(error)

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def set_up(arguments):
    """Has to come before the first operation: JAX reads these settings once."""
    if arguments.device == "cuda" and not any(
            module.name.startswith("jax_cuda") for module in pkgutil.iter_modules()):
        common.not_installed("this JAX has no CUDA plugin")
    common.use_cores(arguments.threads)
    jax.config.update("jax_platforms", arguments.device)
    # For products and convolutions; by default GPUs take TF32.
    jax.config.update("jax_default_matmul_precision",
                      "tensorfloat32" if arguments.tf32 else "highest")


def about_device():
    device = jax.devices()[0]
    return "cpu" if device.platform == "cpu" else device.device_kind


def peak_device_memory_bytes():
    statistics = jax.devices()[0].memory_stats()
    return statistics["peak_bytes_in_use"] if statistics else None


def learning_rate(preset, iteration):
    """common.learning_rate of an iteration whose number is on the device."""
    if preset == "notebook":
        return common.LEARNING_RATE * common.NOTEBOOK_DECAY ** iteration.astype(jnp.float32)
    return common.LEARNING_RATE * jnp.where(iteration >= common.GROWING_DROP_AT,
                                            common.GROWING_DROP, 1.0)


def pad(x, preset):
    """[batch, height + 2, width + 2, ..]"""
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)),
                   mode="wrap" if preset.circular else "constant")


def perceive_by_shifts(x, preset):
    """[batch, height, width, 48] as p[k * 16 + c]."""
    _, height, width, _ = x.shape
    padded = pad(x, preset)
    perceived = [sum(tap * padded[:, i : i + height, j : j + width]
                     for i, row in enumerate(taps) for j, tap in enumerate(row) if tap)
                 for taps in common.filters(preset.sobel_scale).tolist()]
    return jnp.concatenate(perceived, axis=-1)


def perceive_by_convolution(x, preset):
    """The same as p[c * 3 + k]."""
    kernel = jnp.tile(common.filters(preset.sobel_scale).transpose(1, 2, 0), (1, 1, CHANNELS))
    return lax.conv_general_dilated(
        pad(x, preset), kernel[:, :, None], window_strides=(1, 1), padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=CHANNELS)


def weights_for(perception, weights):
    """The first layer as [48, 128], its rows in the order of the perception, and so on."""
    first = weights["net.0.weight"].reshape(HIDDEN, CHANNELS, FILTERS)
    if perception == "shifts":
        first = first.transpose(0, 2, 1)
    result = {"w1": first.reshape(HIDDEN, CHANNELS * FILTERS).T, "b1": weights["net.0.bias"],
              "w2": weights["net.2.weight"].reshape(CHANNELS, HIDDEN).T}
    if "net.2.bias" in weights:
        result["b2"] = weights["net.2.bias"]
    return {name: jnp.array(values) for name, values in result.items()}


def living(x, preset):
    return lax.reduce_window(pad(x[..., 3:4], preset), -jnp.inf, lax.max, (1, 3, 3, 1),
                             (1, 1, 1, 1), "VALID") > LIVING


def step(weights, x, key, preset, perceive):
    """One step, [batch, height, width, 16] to the same."""
    hidden = jax.nn.relu(perceive(x, preset) @ weights["w1"] + weights["b1"])
    update = hidden @ weights["w2"]
    if preset.output_bias:
        update += weights["b2"]
    fire = jax.random.bernoulli(key, FIRE_RATE, x.shape[:3] + (1,))
    z = x + update * fire
    life = living(z, preset)
    if preset.pre_and_post:
        life &= living(x, preset)
    return z * life


def make_update(arguments):
    """The jitted iteration: (trained, start, target) to the new trained and the loss."""
    preset = common.PRESETS[arguments.preset]
    perceive = (perceive_by_shifts if arguments.perception == "shifts"
                else perceive_by_convolution)
    one_step = functools.partial(step, preset=preset, perceive=perceive)
    if arguments.remat:
        one_step = jax.checkpoint(one_step)

    def loss_of(weights, start, target, key):
        x, _ = lax.scan(lambda x, key: (one_step(weights, x, key), None), start,
                        jax.random.split(key, arguments.steps))
        return jnp.mean((x[..., :4] - target) ** 2)

    @functools.partial(jax.jit, donate_argnums=0)
    def update(trained, start, target):
        iteration = trained["iteration"]
        key = jax.random.fold_in(jax.random.key(0), iteration)
        loss, grad = jax.value_and_grad(loss_of)(trained["weights"], start, target, key)
        if preset.normalise:
            grad = jax.tree.map(lambda g: g / (jnp.linalg.norm(g.ravel()) + 1e-8), grad)
        count = iteration.astype(jnp.float32) + 1
        m = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, trained["m"], grad)
        v = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, trained["v"], grad)
        rate = learning_rate(arguments.preset, iteration) / (1 - BETA1**count)
        weights = jax.tree.map(
            lambda w, m, v: w - rate * m / (jnp.sqrt(v / (1 - BETA2**count)) + EPSILON),
            trained["weights"], m, v)
        return {"weights": weights, "m": m, "v": v, "iteration": iteration + 1}, loss

    return update


class Training:
    def __init__(self, arguments):
        weights = weights_for(arguments.perception, common.weights_of(arguments))
        self.trained = {"weights": weights, "m": jax.tree.map(jnp.zeros_like, weights),
                        "v": jax.tree.map(jnp.zeros_like, weights), "iteration": jnp.int32(0)}
        self.target = jnp.array(common.target_of(arguments.preset, arguments.target))
        self.side = self.target.shape[0]
        self.start = jnp.array(common.start_of(arguments.preset, self.side))
        self.update = make_update(arguments)

    def iterate(self):
        self.trained, self.loss = self.update(self.trained, self.start, self.target)

    def wait(self):
        jax.block_until_ready(self.trained)
        return self.loss.item()


def main():
    options = common.parser(__doc__.splitlines()[0])
    options.add_argument("--perception", choices=["shifts", "convolution"], default="shifts")
    options.add_argument("--remat", action="store_true",
                         help="keep the states only and compute the rest again going back")
    arguments = common.parse(options)
    set_up(arguments)
    training = Training(arguments)
    measured = common.measure(training, arguments)
    common.print_report(
        arguments, training.side, measured, peak_device_memory_bytes(),
        engine=f"JAX {jax.__version__}", mode="remat" if arguments.remat else "jit",
        device=about_device(), perception=arguments.perception,
        threads=common.usable_cores())


if __name__ == "__main__":
    main()
