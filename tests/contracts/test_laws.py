"""Every law of `bench.contracts` finds who breaks it, says which promise that was, and lets who keeps it pass."""

from __future__ import annotations

import broken_contracts as broken
import pytest

from attacks.model import ModelError
from bench.contracts import attacks, datasets, models, trainers
from bench.contracts.problems import INNER, Broken
from bench.subjects.models import MODELS

ATTACKS = [
    ("Beyond", attacks.stays_in_its_threat_model, "left its threat model"),
    ("Unclipped", attacks.stays_in_its_threat_model, "left its threat model"),
    ("InFloat32", attacks.fools_somebody, "returned .* torch.float32"),
    ("ZeroByZero", attacks.bears_what_cannot_be_fooled, "a network whose gradient is 0"),
    ("OfTheBatch", attacks.does_not_see_the_other_images, "image 3 alone|another order"),
    ("OfTheOrder", attacks.does_not_see_the_other_images, "another order gives another result"),
    ("GlobalNoise", attacks.leaves_all_else_alone, "it used torch's generator"),
    ("GlobalNoise", attacks.does_not_see_the_other_images, "the same call again"),
    ("NumpyNoise", attacks.leaves_all_else_alone, r"it used numpy\.random"),
    ("MovesTheModel", attacks.leaves_all_else_alone, "weights, buffers, mode and gradients"),
    ("LeavesGradients", attacks.leaves_all_else_alone, "weights, buffers, mode and gradients"),
    ("WritesIntoItsInput", attacks.leaves_all_else_alone, "begin with x.clone"),
    ("HidesErrors", attacks.hides_no_error, "take out the except"),
    ("FoolsNobody", attacks.fools_somebody, "none of 24 fell"),
    ("SaysLess", attacks.spends_no_more_than_it_says, "one cost 1 and 1"),
    ("Forgets", attacks.is_made_again_from_its_settings, "keep every setting in a field"),
]
METHODS = [
    ("ReadsTestImages", trainers.reads_nothing_but_its_batch, "opened .*digits"),
    ("WithoutGradient", trainers.has_a_loss_with_a_gradient, "the loss has no gradient"),
    ("OneForEachImage", trainers.has_a_loss_with_a_gradient, r"it returned \[6\]; average"),
    ("TwoLosses", trainers.has_a_loss_with_a_gradient, r"1 network.*it returned \[\], \[\]"),
    ("NoNumber", trainers.has_a_loss_with_a_gradient, "a loss is a number"),
    ("GlobalMix", trainers.leaves_its_batch_alone, "it used torch's generator"),
    ("GlobalMix", trainers.says_the_same_again, "draw from cohort.noise"),
    ("WritesIntoItsBatch", trainers.leaves_its_batch_alone, "they are the training set"),
    ("StepsItself", trainers.leaves_its_batch_alone, "the loop alone changes weights"),
    ("CountsInItsModule", trainers.is_one_result_for_one_seed, "two trainings of seed 0 differ"),
    ("CountsInTheCohort", trainers.goes_on_in_the_same_bits, "which no checkpoint holds"),
    ("Unlearns", trainers.learns, "learns what is easy"),
]
NETWORKS = [
    ("probabilities", models.returns_logits, "probabilities"),
    ("seeded", models.draws_its_weights_from_the_seed, "set no seed in the factory"),
    ("drawn_by_numpy", models.draws_its_weights_from_the_seed, "torch's own generator alone"),
    ("BatchStatistics", models.answers_each_image_alone, "one by one"),
    ("Remembers", models.answers_each_image_alone, "a forward pass in evaluation mode changes nothing"),
    ("Rounds", models.has_gradients, "take out rounding"),
    ("Detaches", models.has_gradients, "nothing can be trained"),
    ("KeepsWeightsElsewhere", models.is_saved_whole, "register what it computes with"),
]
SETS = [
    ("unseeded", datasets.is_the_same_again, "loaded twice they differ"),
    ("in_the_order_of_a_set", datasets.is_the_same_again, "in a fresh process they differ"),
    ("global_numpy", datasets.is_the_same_again, r"it used numpy\.random"),
    ("trained_on_its_tests", datasets.keeps_test_images_out_of_training, "40 of 40 test images"),
]


@pytest.mark.parametrize(("name", "law", "words"), ATTACKS)
def test_an_attack_that_breaks_its_promise_is_found(name, law, words):
    with pytest.raises(Broken, match=f"(?s)^promised: .*{words}"):
        law(getattr(broken, name)())


@pytest.mark.parametrize(("name", "law", "words"), METHODS)
def test_a_method_that_breaks_its_promise_is_found(name, law, words):
    with pytest.raises(Broken, match=f"(?s)^promised: .*{words}"):
        law(getattr(broken, name)(INNER))


@pytest.mark.parametrize(("name", "law", "words"), [*NETWORKS, *SETS])
def test_a_model_or_a_data_set_that_breaks_its_promise_is_found(name, law, words):
    with pytest.raises((Broken, ModelError), match=words):
        law(f"broken_contracts:{name}")


@pytest.mark.parametrize("law", attacks.LAWS)
def test_a_sound_attack_passes(law):
    law(broken.Sound())


@pytest.mark.parametrize("law", trainers.LAWS)
def test_a_sound_method_passes(law):
    law(broken.SoundMethod(INNER))


@pytest.mark.parametrize("law", models.LAWS)
@pytest.mark.parametrize("name", ["broken_contracts:Wrapped", "cnn-small", "cnn-a", "resnet8", "preact-resnet18"])
def test_sound_models_pass_and_so_do_ours(law, name):
    assert ":" in name or name in MODELS
    law(name)


@pytest.mark.parametrize("law", datasets.LAWS)
@pytest.mark.parametrize("name", ["broken_contracts:sound", "digits"])
def test_sound_data_sets_pass_and_so_does_ours(law, name):
    law(name)


def test_every_law_is_broken_by_somebody():
    tried = {law for _, law, _ in [*ATTACKS, *METHODS, *NETWORKS, *SETS]}
    untried = {law.__name__ for each in (attacks, trainers, models, datasets) for law in each.LAWS if law not in tried}
    assert untried == {"is_made_again_from_its_settings", "loads_as_images"}, "the first is tried on an attack"
