from __future__ import annotations

import dataclasses

import pytest

from components.training.networks import NETWORKS
from components.training.recipes import RECIPES, choose_model


def test_every_network_has_a_recipe():
    assert RECIPES.keys() == NETWORKS.keys()


@pytest.mark.parametrize("name", ["crnn_v1", "ocr_model_v1"])
def test_reference_networks_train_as_specified(name):
    recipe = RECIPES[name]
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate) == (100, 16, 1e-3)
    assert (recipe.weight_decay, recipe.one_cycle, recipe.augment) == (0, False, False)
    assert recipe.epochs_for(images=3, batch_size=16) == 100


@pytest.mark.parametrize(
    ("images", "batch_size", "epochs"),
    [
        (100_000, 32, 40),  # enough steps: the recipe's own number
        (320, 32, 150),  # 10 steps an epoch: 1,500 steps are 150 epochs
        (321, 32, 137),  # 11 steps an epoch: 136 epochs would be 1,496
        (1, 32, 1500),
    ],
)
def test_few_images_get_more_epochs_so_that_there_are_steps_enough(images, batch_size, epochs):
    recipe = dataclasses.replace(RECIPES["ctc_conv"], epochs=40, least_steps=1500)
    assert recipe.epochs_for(images, batch_size) == epochs


@pytest.mark.parametrize(
    ("symbols", "network"),
    [(5, "ctc_conv"), (15, "ctc_conv"), (15.1, "ctc_conv_context"), (60, "ctc_conv_context")],
)
def test_long_lines_get_the_network_that_sees_more_of_them(symbols, network):
    assert choose_model(symbols) == network


@pytest.mark.parametrize(
    ("symbols", "steps"), [(0, 1500), (5, 1500), (15, 1500), (40.3, 4030), (58, 5000), (200, 5000)]
)
def test_lines_of_many_symbols_get_more_steps(symbols, steps):
    recipe = RECIPES["ctc_conv"]
    assert recipe.count_least_steps(symbols) == steps
    assert recipe.epochs_for(images=160, batch_size=16, symbols=symbols) == steps // 10
    assert RECIPES["crnn_v1"].count_least_steps(symbols) == 0
