# SPDX-License-Identifier: MIT
"""Models: files, rules, and the weights of PyTorch's modules."""

import json
import struct

import numpy as np
import pytest
from conftest import LIZARD, RULES, random_model

import libnca


def same_weights(left, right):
    return all(
        np.array_equal(getattr(left, name), getattr(right, name)) for name in ("w1", "b1", "w2", "b2")
    )


def write_safetensors(path, tensors, metadata=None):
    header, at = {"__metadata__": metadata or {}}, 0
    for name, array in tensors.items():
        end = at + array.nbytes
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in tensors.values()))


# --- files -------------------------------------------------------------------------------------------


def test_a_model_is_saved_as_it_was_loaded(tmp_path, lizard):
    lizard.save(tmp_path / "same.safetensors")
    assert (tmp_path / "same.safetensors").read_bytes() == LIZARD.read_bytes()
    assert lizard.w1.shape == (128, 48) and lizard.b1.shape == (128,)
    assert lizard.w2.shape == (16, 128) and lizard.b2.shape == (16,)
    assert lizard.w1.dtype == np.float32
    assert lizard.rule == libnca.Rule.growing() and lizard.notes == []
    assert lizard.history["preset"] == "growing" and lizard.history["iterations"] == 8000
    assert lizard.history["target"] == "lizard.png"
    assert repr(lizard) == (
        "<libnca.Model, fire rate 0.5, 8000 iterations of growing on lizard.png>"
    )


@pytest.mark.parametrize("output_bias", [True, False])
@pytest.mark.parametrize("name", RULES)
def test_a_model_made_of_arrays_is_saved_and_loaded(tmp_path, name, output_bias):
    model = random_model(RULES[name], output_bias=output_bias)
    model.save(str(tmp_path / "m.safetensors"))
    loaded = libnca.Model.load(tmp_path / "m.safetensors")
    assert same_weights(loaded, model) and loaded.rule == RULES[name]
    assert (loaded.b2 is not None) == output_bias
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()


def test_a_rule_of_decimals_is_saved_and_loaded(tmp_path):
    filters = libnca.Rule.growing().rotated(17).filters
    rule = libnca.Rule(filters=filters, fire_rate=0.1, step_size=1 / 3, life="post")
    random_model(rule).save(tmp_path / "m.safetensors")
    loaded = libnca.Model.load(tmp_path / "m.safetensors").rule
    assert loaded == rule and loaded.text == rule.text and loaded.fire_rate == 0.1


def test_arrays_of_a_model_are_copies(lizard):
    before = lizard.w1
    lizard.w1[:] = 0
    assert np.array_equal(lizard.w1, before) and before.any()


def test_files_of_other_programs_are_loaded(tmp_path, lizard):
    path = tmp_path / "theirs.safetensors"
    tensors = {"fc0.weight": lizard.w1[:, :, None, None].copy(), "fc0.bias": lizard.b1,
               "fc1.weight": lizard.w2, "fc1.bias": lizard.b2}  # fmt: skip
    write_safetensors(path, tensors)
    known = libnca.Model.load(path, rule="growing", input_order="channel", fire_rate=0.25)
    assert same_weights(known, lizard) and known.rule == libnca.Rule.growing(fire_rate=0.25)
    assert known.notes == []
    guessed = libnca.Model.load(path)
    assert same_weights(guessed, lizard) and guessed.rule == libnca.Rule.growing()
    assert "the rule is a guess, growing with inputs by channel" in " ".join(guessed.notes)
    by_filter = lizard.w1.reshape(128, 16, 3).swapaxes(1, 2).reshape(128, 48).copy()
    write_safetensors(path, {**tensors, "fc0.weight": by_filter})
    assert same_weights(libnca.Model.load(path, rule="growing", input_order="filter"), lizard)
    assert same_weights(libnca.Model.load(path, rule="growing"), lizard)


def test_what_is_no_model_is_refused(tmp_path, lizard):
    load = libnca.Model.load
    with pytest.raises(OSError, match="cannot read .*: there is no such file"):
        load(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="text"):
        load(tmp_path / "text")
    bytes_of = LIZARD.read_bytes()
    (tmp_path / "cut").write_bytes(bytes_of[:-100])
    with pytest.raises(ValueError, match="cut"):
        load(tmp_path / "cut")
    with pytest.raises(OSError, match="create the folder"):
        lizard.save(tmp_path / "no" / "folder")
    broken = libnca.Model(lizard.rule, lizard.w1 * np.nan, lizard.b1, lizard.w2)
    with pytest.raises(ValueError, match="finite"):
        broken.save(tmp_path / "nan")
    assert not (tmp_path / "nan").exists()


def test_options_are_checked():
    for options, error, message in (
        ({"rule": "growing"}, ValueError, "leave out rule, input_order and all that"),
        ({"other": 1}, ValueError, "no such option: other; there are rule, edges"),
        ({"edges": "round"}, ValueError, "edges is 'round': expected circular, zero"),
        ({"edges": 1}, TypeError, "edges is 1: expected a text"),
        ({"fire_rate": "often"}, TypeError, "fire_rate is 'often': expected a number"),
        ({"transposed": "yes"}, TypeError, "transposed is 'yes': expected True or False"),
    ):
        with pytest.raises(error, match=message) as caught:
            libnca.Model.load(LIZARD, **options)
        assert "--" not in str(caught.value)


def test_arrays_of_wrong_sizes_are_refused():
    rule, model = RULES["growing"], random_model(RULES["growing"])
    with pytest.raises(ValueError, match=r"w1 has the shape \(48, 128\): expected \(128, 48\)"):
        libnca.Model(rule, model.w1.T, model.b1, model.w2)
    with pytest.raises(ValueError, match=r"b2 has the shape \(15,\): expected \(16,\)"):
        libnca.Model(rule, model.w1, model.b1, model.w2, model.b2[:15])
    with pytest.raises(ValueError, match="w2"):
        libnca.Model(rule, model.w1, model.b1, None)


# --- rules and keys ----------------------------------------------------------------------------------


def test_rules_have_the_values_of_their_programs():
    growing, notebook = libnca.Rule.growing(), libnca.Rule.notebook()
    assert growing == libnca.Rule()
    assert growing.filters[1] == (-0.125, 0, 0.125, -0.25, 0, 0.25, -0.125, 0, 0.125)
    assert (growing.edges, growing.life) == ("zero", "pre_and_post")
    assert notebook.filters[2] == (-1, -2, -1, 0, 0, 0, 1, 2, 1)
    assert (notebook.edges, notebook.life, notebook.start_cell, notebook.premultiplied) == (
        "circular", "post", "alpha", False)  # fmt: skip
    assert libnca.Rule.demo() == libnca.Rule.growing(edges="circular")
    assert not any(notebook.without_identity().filters[0])
    assert notebook.without_identity().filters[1:] == notebook.filters[1:]
    turned = growing.rotated(90).filters
    assert turned[2] == growing.filters[1] and turned[0] == growing.filters[0]
    assert libnca.Rule.growing(fire_rate=0.1).rotated(0) == libnca.Rule.growing(fire_rate=0.1)
    assert hash(growing) == hash(libnca.Rule.growing())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"fire_rate": 1.5}, "fire_rate is 1.5, expected 0..1"),
        ({"step_size": float("inf")}, "step_size"),
        ({"edges": "round"}, "Rule.edges is 'round': expected 'circular' or 'zero'"),
        ({"life": None}, "Rule.life is None"),
        ({"filters": ((0,) * 9,) * 2}, "three filters of nine"),
        ({"filters": ((0,) * 8,) * 3}, "three filters of nine"),
    ],
    ids=str,
)
def test_a_bad_rule_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        libnca.Rule.growing(**changes)


def test_fire_masks_are_those_of_philox():
    """Salmon et al., 2011: Philox4x32-10, as include/nca/random.hpp says what its words are."""

    def philox(key, counter):
        for _ in range(10):
            high0, low0 = divmod(0xD2511F53 * counter[0], 2**32)
            high1, low1 = divmod(0xCD9E8D57 * counter[2], 2**32)
            counter = (high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0)
            key = ((key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32)
        return counter

    key = libnca.Key(seed=2**32 - 1, iteration=3, step=8, sample=2**32 - 1)
    mask = libnca.fire_mask(key.after(2), 0.3, 2, 3, 5)
    assert mask.shape == (2, 3, 5) and mask.dtype == np.uint8
    for sample in range(2):
        for cell in range(15):
            counter = (cell // 4, 10, (2**32 - 1 + sample) % 2**32, 3)
            word = philox((2**32 - 1, 0), counter)[cell % 4]
            assert mask[sample].flat[cell] == (word < round(np.float32(0.3) * 2.0**32))
    with pytest.raises(ValueError, match="fire rate"):
        libnca.fire_mask(key, 1.5, 1, 3, 5)
    assert key.after(2**32 - 4).step == 4


# --- PyTorch's modules -------------------------------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def module_of(torch, model, linear=False, filters=None, first="w1"):
    """Two layers with the weights of a model, and perhaps filters."""
    bias = model.b2 is not None
    layers = (
        (torch.nn.Linear(48, 128), torch.nn.Linear(128, 16, bias=bias))
        if linear
        else (torch.nn.Conv2d(48, 128, 1), torch.nn.Conv2d(128, 16, 1, bias=bias))
    )
    module = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1])
    for layer, weight, vector in zip(layers, (model.w1, model.w2), (model.b1, model.b2)):
        layer.weight.data = torch.tensor(weight).reshape(layer.weight.shape)
        if vector is not None:
            layer.bias.data = torch.tensor(vector)
    if filters is not None:
        module.register_buffer("filters", filters)
    return module


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("output_bias", [True, False])
def test_two_layers_are_a_model(torch, lizard, linear, output_bias):
    model = lizard
    if not output_bias:
        model = random_model(RULES["notebook"], output_bias=False)
    module = module_of(torch, model, linear)
    module.to(torch.float64)
    found = libnca.Model.from_torch(module, rule=model.rule)
    assert same_weights(found, model) and found.rule == model.rule
    assert same_weights(libnca.Model.from_torch(module, rule="demo", input_order="channel"), model)
    if output_bias:
        guessed = libnca.Model.from_torch(module)
        assert same_weights(guessed, model) and guessed.rule == libnca.Rule.growing()
        assert any("the rule is a guess" in note for note in guessed.notes)


@pytest.mark.parametrize("name", RULES)
def test_to_torch_and_back_is_the_same(torch, name):
    for output_bias in True, False:
        model = random_model(RULES[name], output_bias=output_bias)
        module = model.to_torch()
        found = libnca.Model.from_torch(module, rule=model.rule)
        assert same_weights(found, model) and found.rule == model.rule
        module.load_state_dict(model.to_torch().state_dict())


def test_the_filters_of_a_module_are_the_rule_s(torch, lizard):
    rule = libnca.Rule.growing(filters=libnca.Rule.growing().rotated(30).filters)
    automaton = libnca.Model(rule, lizard.w1, lizard.b1, lizard.w2, lizard.b2).to_torch()
    found = libnca.Model.from_torch(automaton, rule="growing")
    assert found.rule == rule and same_weights(found, lizard)
    with pytest.raises(ValueError, match="filters of its own, and the rule that is given has others"):
        libnca.Model.from_torch(automaton, rule=libnca.Rule.growing())


def test_filters_tell_the_order_of_the_inputs(torch, lizard):
    by_filter = lizard.w1.reshape(128, 16, 3).swapaxes(1, 2).reshape(128, 48)
    # One group of channels for each filter, and no two channels next to each other.
    filters = torch.tensor(lizard.rule.filters).reshape(3, 1, 3, 3)
    turned = libnca.Model(lizard.rule, by_filter, lizard.b1, lizard.w2, lizard.b2)
    with_order = module_of(torch, turned)
    for options in (
        dict(rule="growing", input_order="filter"),
        dict(rule=lizard.rule, input_order="filter"),
        dict(rule="growing"),
    ):
        assert same_weights(libnca.Model.from_torch(with_order, **options), lizard)
    with_filters = module_of(torch, lizard, filters=filters.repeat(16, 1, 1, 1))
    for options in dict(rule=lizard.rule), dict(rule="growing"), {}:
        assert same_weights(libnca.Model.from_torch(with_filters, **options), lizard)
    with pytest.raises(ValueError, match="inputs are by channel: leave input_order out"):
        libnca.Model.from_torch(with_filters, rule=lizard.rule, input_order="filter")


def test_a_module_that_is_no_automaton_is_refused_and_the_message_says_why(torch, lizard):
    refused = [
        (torch.nn.Linear(3, 4), {}, "the module Linear"),
        (torch.nn.Sequential(torch.nn.Conv2d(48, 64, 1), torch.nn.Conv2d(64, 16, 1)), {}, "64"),
        (torch.nn.Sequential(torch.nn.Conv2d(48, 128, 1), torch.nn.Conv2d(128, 12, 1)), {}, "12"),
        (torch.nn.Sequential(*[module_of(torch, lizard) for _ in range(3)]), {}, "128"),
        (torch.nn.Sequential(module_of(torch, lizard), torch.nn.Conv2d(16, 4, 1)), {}, "4, 16"),
        (torch.nn.ReLU(), {}, "the module ReLU"),
        (module_of(torch, lizard), dict(rule=lizard.rule, edges="zero"), "only input_order may be"),
        (module_of(torch, lizard), dict(rule="other"), "expected notebook, growing, demo"),
    ]
    wild = random_model(RULES["growing"], strength=100.0)
    refused.append((module_of(torch, wild), {}, "say how it was trained with rule, input_order"))
    endless = random_model(RULES["growing"])
    module = module_of(torch, endless)
    module[0].weight.data[0, 0] = float("nan")
    refused.append((module, {}, "finite"))
    for module, options, message in refused:
        with pytest.raises(ValueError, match=message) as caught:
            libnca.Model.from_torch(module, **options)
        assert "--" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_state_dict_has_copies(torch, lizard):
    state = lizard.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "w1": (128, 48), "b1": (128,), "w2": (16, 128), "b2": (16,)}  # fmt: skip
    state["w1"].zero_()
    assert lizard.w1.any()
    # safetensors saves no tensors that share memory.
    for tensors in state, libnca.nn.Rollout(lizard, 1).state_dict(), lizard.to_torch().state_dict():
        assert all(t.untyped_storage().nbytes() == t.nbytes for t in tensors.values())
    assert "b2" not in random_model(RULES["growing"], output_bias=False).state_dict()


def test_rules_are_read_the_same_in_every_language():
    import locale

    for language in "de_DE.UTF-8", "fr_FR.UTF-8", "de_DE", "fr_FR":
        try:
            locale.setlocale(locale.LC_NUMERIC, language)
        except locale.Error:
            continue
        try:
            rule = libnca.Rule(step_size=0.125, fire_rate=0.75)
            assert random_model(rule).rule == rule
        finally:
            locale.setlocale(locale.LC_NUMERIC, "C")
        return
    pytest.skip("there is no language with a decimal comma")


def test_models_are_not_taken_for_their_names(tmp_path):
    for make in (
        lambda: libnca.Simulator("lizard.safetensors"),
        lambda: libnca.Model("growing", *[0] * 3),
    ):
        with pytest.raises(TypeError, match="is a str: expected a libnca."):
            make()
