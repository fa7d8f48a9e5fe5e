"""Several tasks with one backbone: heads side by side are heads apart, and what they cost is what was predicted."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bsr_explorer.config import Config
from bsr_explorer.errors import UserError
from bsr_explorer.finetune.build import build
from bsr_explorer.finetune.measure import measure
from bsr_explorer.models.tasks import give_tasks, loss_of, loss_within, other_tasks, right_of, tasks_of
from bsr_explorer.prediction import geometry_of, predict, tape_of

TASKS = (3, 2, 4)
MIXTURES = "moe_vit(deit_t, blocks=(11,), experts=4, top=2)"


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(7, 9), torch.tensor([0, 2, 3, 4, 8, 5, 1])


def apart(logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """The mean loss by a head for each task, image by image."""
    losses = []
    for scores, label in zip(logits, labels.tolist(), strict=True):
        first, end = next((a, b) for a, b in ((0, 3), (3, 5), (5, 9)) if a <= label < b)
        own, place = scores[None, first:end], torch.tensor([label - first])
        losses.append(F.cross_entropy(own, place, label_smoothing=smoothing))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_heads_side_by_side_learn_as_heads_apart(smoothing: float) -> None:
    logits, labels = batch()
    together, separate = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = loss_within(TASKS, together, labels, smoothing)
    expected = apart(separate, labels, smoothing)
    assert torch.allclose(loss, expected)
    loss.backward()
    expected.backward()
    assert together.grad is not None and separate.grad is not None
    assert torch.allclose(together.grad, separate.grad, atol=1e-7)
    assert not together.grad[other_tasks(TASKS, labels)].any()


def test_an_answer_of_another_task_is_no_answer() -> None:
    logits = torch.tensor([[0.0, 1, 0, 9, 9, 9, 9, 9, 9], [9, 9, 9, 1, 0, 9, 9, 9, 9]])
    assert right_of(TASKS, logits, torch.tensor([1, 4])).tolist() == [True, False]


def test_smoothing_keeps_nothing_more() -> None:
    kept: dict[float, int] = {}
    for smoothing in (0.0, 0.1):
        logits, labels = batch()
        found: dict[int, int] = {}

        def note(
            tensor: torch.Tensor, found: dict[int, int] = found, labels: torch.Tensor = labels
        ) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() != labels.untyped_storage().data_ptr():
                found[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = loss_within(TASKS, logits.requires_grad_(), labels, smoothing)
        kept[smoothing] = sum(found.values())
        del loss
    assert kept[0.0] == kept[0.1] == 7 * 9 * 4 + 7 * 9 + 4


@pytest.mark.parametrize("model", ["deit_t", MIXTURES, "resnet18"])
@pytest.mark.parametrize("precision", ["fp32", "amp_bf16"])
def test_a_step_costs_what_was_predicted(model: str, precision: str) -> None:
    """With so many classes that the loss is the fullest moment."""
    asked = Config(
        model=model, image_size=32, batch_size=64, method="linear", precision=precision, optimizer="sgd"
    )
    config = asked.with_classes((6000, 2000, 5))
    predicted, measured = predict(config), measure(config)
    assert predicted.saved_bytes == measured.saved_bytes
    assert predicted.peak_bytes == measured.peak_bytes
    assert predicted.train_flops == measured.train_flops
    alone = predict(Config(**{**vars(asked), "num_classes": 8005}))
    assert predicted.saved_bytes == alone.saved_bytes + 64 * 8005
    assert predicted.train_flops == alone.train_flops


@pytest.mark.parametrize("method", ["full", "bsr", "lora", "checkpoint"])
def test_methods_go_with_it(method: str) -> None:
    config = Config(model="deit_t", image_size=32, batch_size=4, method=method, micro_batches=2).with_classes(
        (4, 3, 2)
    )
    predicted, measured = predict(config), measure(config)
    assert (predicted.saved_bytes, predicted.peak_bytes) == (measured.saved_bytes, measured.peak_bytes)


def test_the_loss_of_a_mixture_is_within_tasks_and_balanced() -> None:
    config = Config(model=MIXTURES, image_size=32, batch_size=2, method="full").with_classes((3, 2))
    model = build(config).train()
    logits, labels = model(torch.randn(2, 3, 32, 32)), torch.tensor([0, 4])
    mixture = model.get_submodule("blocks.11.mlp")
    unbalanced = mixture.unbalanced
    assert isinstance(unbalanced, torch.Tensor)
    expected = loss_within((3, 2), logits, labels) + 0.01 * unbalanced
    assert torch.allclose(loss_of(model)(logits, labels), expected)


def test_one_task_is_no_tasks() -> None:
    config = Config(model="deit_t", image_size=32).with_classes((7,))
    assert (config.num_classes, config.tasks) == (7, ())
    assert tasks_of(build(config)) == ()
    assert geometry_of(config).tasks == ()
    assert [op.kind for op in tape_of(config) if op.name == "loss"] == ["cross_entropy"]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("llama_tiny", "--tasks: llama_tiny is a language model"),
        ("bsr_explorer.models.dense:linear", "--tasks: the model classifies pixels"),
    ],
)
def test_models_without_classes_of_images_are_refused(model: str, said: str) -> None:
    config = Config(model=model, image_size=64, method="full").with_classes((3, 2))
    with pytest.raises(UserError, match=said):
        predict(config)


def test_a_loss_of_its_own_is_refused() -> None:
    class Odd(nn.Linear):
        def own_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return logits.sum()

    with pytest.raises(UserError, match="--tasks: the model has a loss of its own"):
        give_tasks(Odd(2, 2), (3, 2))
