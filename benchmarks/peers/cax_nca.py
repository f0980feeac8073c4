#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The training iteration of the preset growing with the classes of the library CAX, timed.

The system is that of CAX's own example "Growing Neural Cellular Automata": ConvPerceive with fixed
filters and NCAUpdate. The timed iteration is that of the other peers: a fixed number of steps from
one cell, the loss of the last state, gradients divided by their norms, Adam; no pool, and no states
in between. vmap goes over the batch, as in the example; with the batch as a leading dimension it
took more than twice as long on a CPU. CAX has zero edges and masks life before and after the step,
so there is no preset notebook.

  python3 benchmarks/peers/cax_nca.py --threads 2 --iterations 5
"""
from importlib.metadata import version

import common
import jax_nca
from common import CHANNELS, FILTERS, FIRE_RATE, HIDDEN, LIVING

import jax
import jax.numpy as jnp

try:
    import flax
    import optax
    from cax.core import ComplexSystem
    from cax.core.perceive import ConvPerceive
    from cax.core.update import NCAUpdate
    from flax import nnx
except ModuleNotFoundError as error:
    common.not_installed(error)

# CAX has colour and alpha last.
TO_CAX = list(range(4, CHANNELS)) + list(range(4))


class GrowingNCA(ComplexSystem):
    def __init__(self, weights, rngs):
        perception = CHANNELS * FILTERS
        self.perceive = ConvPerceive(channel_size=CHANNELS, perception_size=perception,
                                     feature_group_count=CHANNELS, rngs=rngs)
        # Dropout is the fire mask. It divides by the rate, and the step size multiplies by it.
        self.update = NCAUpdate(channel_size=CHANNELS, perception_size=perception,
                                hidden_layer_sizes=(HIDDEN,), cell_dropout_rate=1 - FIRE_RATE,
                                step_size=FIRE_RATE, alive_threshold=LIVING, rngs=rngs)
        filters = common.filters(common.PRESETS["growing"].sobel_scale).transpose(1, 2, 0)
        self.perceive.conv.kernel[...] = jnp.tile(filters, (1, 1, CHANNELS))[:, :, None]
        first, last = self.update.layers
        w1 = weights["net.0.weight"].reshape(HIDDEN, CHANNELS, FILTERS)[:, TO_CAX]
        w2 = weights["net.2.weight"].reshape(CHANNELS, HIDDEN)[TO_CAX]
        first.kernel[...] = jnp.array(w1.reshape(HIDDEN, perception).T[None, None])
        first.bias[...] = jnp.array(weights["net.0.bias"])
        last.kernel[...] = jnp.array(w2.T[None, None])
        last.bias[...] = jnp.array(weights["net.2.bias"][TO_CAX])

    def _step(self, state, input=None, *, sow=False):  # CAX before 0.4 passes sow
        return self.update(state, self.perceive(state), input)


def normalise_each():
    """An optax transformation: each tensor by its norm."""
    return optax.stateless(lambda grad, _: jax.tree.map(
        lambda g: g / (jnp.linalg.norm(g.ravel()) + 1e-8), grad))


class Training:
    def __init__(self, arguments):
        target = common.target_of(arguments.preset, arguments.target)
        self.side = target.shape[0]
        self.target = jnp.array(target)
        self.start = jnp.array(common.start_of(arguments.preset, self.side)[..., TO_CAX])
        self.system = GrowingNCA(common.weights_of(arguments), nnx.Rngs(0))
        trained = nnx.All(nnx.Param, nnx.PathContains("update"))
        rate = optax.piecewise_constant_schedule(
            common.LEARNING_RATE, {common.GROWING_DROP_AT: common.GROWING_DROP})
        self.optimizer = nnx.Optimizer(
            self.system, optax.chain(normalise_each(), optax.adam(rate)), wrt=trained)

        per_sample = nnx.StateAxes({nnx.RngState: 0, ...: None})

        def loss_of(system, start, target):
            rollout = nnx.vmap(lambda system, start: system(start, num_steps=arguments.steps),
                               in_axes=(per_sample, 0))
            state = nnx.split_rngs(splits=common.BATCH)(rollout)(system, start)
            return jnp.mean(jnp.square(state[..., -4:] - target))

        @nnx.jit
        def update(system, optimizer, start, target):
            loss, grad = nnx.value_and_grad(loss_of, argnums=nnx.DiffState(0, trained))(
                system, start, target)
            optimizer.update(system, grad)
            return loss

        self.loss_of, self.update = loss_of, update

    def iterate(self):
        self.loss = self.update(self.system, self.optimizer, self.start, self.target)

    def wait(self):
        jax.block_until_ready(nnx.state(self.system, nnx.Param))
        return self.loss.item()


def main():
    arguments = common.parse(common.parser(__doc__.splitlines()[0], presets=("growing",)))
    jax_nca.set_up(arguments)
    training = Training(arguments)
    measured = common.measure(training, arguments)
    common.print_report(
        arguments, training.side, measured, jax_nca.peak_device_memory_bytes(),
        engine=f"CAX {version('cax')}", mode="jit", device=jax_nca.about_device(),
        jax=jax.__version__, flax=flax.__version__, threads=common.usable_cores())


if __name__ == "__main__":
    main()
