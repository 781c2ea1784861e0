from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist
from torchmetrics.classification import MulticlassAccuracy

from detseg.metrics import TopKAccuracy
from tests.ranks import on_two_ranks


def test_equals_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 12, generator=generator)
    labels = torch.randint(0, 11, (200,), generator=generator)  # one class has no image
    counts = TopKAccuracy(tuple("abcdefghijkl"))
    for part in range(0, 200, 30):
        counts.update(logits[part : part + 30], labels[part : part + 30])
    values = counts.compute()
    for k in (1, 5):
        theirs = MulticlassAccuracy(12, top_k=k, average="micro")
        assert values[f"top{k}"] == pytest.approx(float(theirs(logits, labels)))
    own = MulticlassAccuracy(12, average=None)(logits, labels)
    assert [values[f"top1/{name}"] for name in "abcdefghijk"] == pytest.approx(own[:11].tolist())
    assert math.isnan(values["top1/l"])


def test_few_classes() -> None:
    counts = TopKAccuracy(("a", "b"))
    counts.update(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    assert counts.compute() == {"top1": 0.5, "top5": 1.0, "top1/a": 0.0, "top1/b": 1.0}


def test_other_numbers_of_classes() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]] * 4)
    for k, (top1, top_k) in {1: (0.25, 0.25), 2: (0.25, 0.5), 3: (0.25, 0.75)}.items():
        metric = TopKAccuracy("abcd", k=k)
        metric.update(logits, torch.arange(4))
        values = metric.compute()
        assert (values["top1"], values[f"top{k}"]) == (top1, top_k)
        assert metric.monitor_metrics == (("top1",) if k == 1 else ("top1", f"top{k}"))
        assert len(metric.summary(values)) == len(metric.monitor_metrics)
    with pytest.raises(ValueError, match="k 0: must be at least 1"):
        TopKAccuracy("abcd", k=0)


def _count() -> None:
    dist.init_process_group("gloo")
    counts = TopKAccuracy(("a", "b"))
    if dist.get_rank() == 0:  # the other one has seen nothing
        counts.update(torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1, 0]))
    assert counts.compute()["top1"] == pytest.approx(2 / 3)
    dist.destroy_process_group()


def test_two_ranks_have_the_same_values() -> None:
    on_two_ranks(_count)
