from pathlib import Path
from typing import Any

import pytest

from detseg.configurable import IN_CHECKPOINT, Recipe, build, recipe
from detseg.modules import backbones


class Engine(Recipe):
    def __init__(self, power: int, weights: str | None = None) -> None:
        self.power = power
        self.weights = weights


class Car(Recipe):
    def __init__(self, engine: Engine, wheels: int = 4, colours: tuple[str, ...] = ()) -> None:
        self.engine = engine
        self.wheels = wheels
        self.colours = colours


class Van(Car):
    def __init__(self, engine: Engine, load: float) -> None:
        super().__init__(engine, wheels=6)
        self.load = load


class Truck(Van):
    """Inherits its constructor."""


class Painted(Car):
    def __init__(self, colour: str, **others: Any) -> None:
        super().__init__(colours=(colour,), **others)


def test_describes_what_was_given_and_no_defaults() -> None:
    assert recipe(Car(Engine(5), colours=("red",))) == {
        "class": f"{__name__}.Car",
        "arguments": {"engine": {"class": f"{__name__}.Engine", "arguments": {"power": 5}}, "colours": ["red"]},
    }


@pytest.mark.parametrize("cls", [Van, Truck])
def test_the_outermost_constructor_of_a_subclass_counts(cls: type[Van]) -> None:
    van = cls(Engine(3), 2.5)
    assert recipe(van) == {
        "class": f"{__name__}.{cls.__name__}",
        "arguments": {"engine": {"class": f"{__name__}.Engine", "arguments": {"power": 3}}, "load": 2.5},
    }
    rebuilt = build(recipe(van))
    assert type(rebuilt) is cls
    assert (rebuilt.engine.power, rebuilt.load, rebuilt.wheels) == (3, 2.5, 6)


def test_building_again_gives_the_same_recipe() -> None:
    description = recipe(Car(Engine(5), 3, ("red", "blue")))
    rebuilt = build(description)
    assert recipe(rebuilt) == description
    assert (rebuilt.wheels, list(rebuilt.colours)) == (3, ["red", "blue"])
    assert build(description, wheels=9).wheels == 9
    assert description["arguments"]["wheels"] == 3


def test_arguments_that_are_passed_on_are_repeated() -> None:
    car = Painted("red", engine=Engine(1), wheels=3)
    assert recipe(car)["arguments"].keys() == {"colour", "engine", "wheels"}
    rebuilt = build(recipe(car), wheels=5)
    assert (rebuilt.engine.power, rebuilt.wheels, rebuilt.colours) == (1, 5, ("red",))


def test_weights_are_neither_told_nor_fetched_again() -> None:
    """Yet what depends on whether there were any stays, and a file cannot ask for any."""
    description = recipe(Engine(1, weights="https://example.com/engine.pt"))
    assert description["arguments"] == {"power": 1, "weights": IN_CHECKPOINT}
    assert build(description).weights == IN_CHECKPOINT
    description["arguments"]["weights"] = "https://example.com/other.pt"
    assert build(description).weights == IN_CHECKPOINT
    assert recipe(Engine(1, weights=None))["arguments"] == {"power": 1, "weights": None}


def test_a_class_of_another_package_may_have_a_name_of_ours() -> None:
    class ResNet(Recipe):
        def __init__(self) -> None:
            pass

    assert type(build(recipe(ResNet()))) is ResNet
    assert type(build(recipe(backbones.ResNet("resnet18")))) is backbones.ResNet
    assert recipe(backbones.ResNet("resnet18"))["class"] == "ResNet"


def test_plain_values_stay_and_others_are_refused() -> None:
    assert recipe({"a": [1, 2.5, None, True, "x"], 3: Path("b/c")}) == {"a": [1, 2.5, None, True, "x"], "3": "b/c"}
    with pytest.raises(TypeError, match="cannot describe a set"):
        recipe(Car(Engine({1})))  # type: ignore[arg-type]


def test_names_nothing_but_known_classes() -> None:
    for name in ("Bicycle", "os.system", "builtins.eval"):
        with pytest.raises(KeyError, match="not a class of detseg"):
            build({"class": name, "arguments": {}})


def test_a_wrong_argument_keeps_its_error() -> None:
    with pytest.raises(TypeError, match="cylinders"):
        Car(Engine(1), cylinders=4)  # type: ignore[call-arg]
