import math

from detseg.metrics import CocoAP, VocAP, format_tables
from detseg.metrics.table import WIDTH

SUMMARY = {
    "AP": 0.4123,
    "AP50": 0.62,
    "AP75": 0.5,
    "AP_small": math.nan,
    "AP_medium": 0.3,
    "AP_large": 1.0,
    "AR_1": 0.1,
    "AR_10": 0.2,
    "AR_100": 0.3,
    "AR_small": math.nan,
    "AR_medium": 0.4,
    "AR_large": 0.0,
}


def test_every_figure_is_there() -> None:
    coco = SUMMARY | {"AP/red fox": 0.25, "AP/a/b": math.nan}
    values = coco | {"VOC07_AP": 0.7, "VOC07_AP/red fox": 0.75, "VOC07_AP/a/b": math.nan, "loss": 2.0}
    lines = format_tables([CocoAP(), VocAP(2007)], values).splitlines()
    assert lines[0].split() == ["AP", "41.2", "AP_small", "-", "AR_1", "10.0", "AR_small", "-"]
    assert lines[2].split() == ["AP75", "50.0", "AP_large", "100.0", "AR_100", "30.0", "AR_large", "0.0"]
    assert [line.split() for line in lines[4:]] == [
        ["AP", "VOC07"],
        ["all", "classes", "41.2", "70.0"],
        ["red", "fox", "25.0", "75.0"],
        ["a/b", "-", "-"],
    ]
    assert len({len(line) for line in lines[4:]}) == 1


def test_many_classes_stand_side_by_side() -> None:
    coco = SUMMARY | {f"AP/class number {label}": label / 100 for label in range(80)}
    text = format_tables([CocoAP(), VocAP(2007)], coco | {f"VOC07_{name}": value for name, value in coco.items()})
    assert all(len(line) <= WIDTH for line in text.splitlines())
    assert len(text.splitlines()) < 40
    assert all(f"class number {label} " in text for label in range(80))
