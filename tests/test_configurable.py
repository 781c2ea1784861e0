from pathlib import Path
from typing import Any

import pytest

from detseg.configurable import WEIGHTS_IN_CHECKPOINT, Configurable, from_config, to_config
from detseg.modules import backbones


class Engine(Configurable):
    def __init__(self, power: int, weights: str | None = None) -> None:
        self.power = power
        self.weights = weights


class Car(Configurable):
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
    assert to_config(Car(Engine(5), colours=("red",))) == {
        "class": f"{__name__}.Car",
        "init_args": {"engine": {"class": f"{__name__}.Engine", "init_args": {"power": 5}}, "colours": ["red"]},
    }


@pytest.mark.parametrize("cls", [Van, Truck])
def test_the_outermost_constructor_of_a_subclass_counts(cls: type[Van]) -> None:
    van = cls(Engine(3), 2.5)
    assert to_config(van) == {
        "class": f"{__name__}.{cls.__name__}",
        "init_args": {"engine": {"class": f"{__name__}.Engine", "init_args": {"power": 3}}, "load": 2.5},
    }
    rebuilt = from_config(to_config(van))
    assert type(rebuilt) is cls
    assert (rebuilt.engine.power, rebuilt.load, rebuilt.wheels) == (3, 2.5, 6)


def test_building_again_gives_the_same_recipe() -> None:
    description = to_config(Car(Engine(5), 3, ("red", "blue")))
    rebuilt = from_config(description)
    assert to_config(rebuilt) == description
    assert (rebuilt.wheels, list(rebuilt.colours)) == (3, ["red", "blue"])
    assert from_config(description, wheels=9).wheels == 9
    assert description["init_args"]["wheels"] == 3


def test_arguments_that_are_passed_on_are_repeated() -> None:
    car = Painted("red", engine=Engine(1), wheels=3)
    assert to_config(car)["init_args"].keys() == {"colour", "engine", "wheels"}
    rebuilt = from_config(to_config(car), wheels=5)
    assert (rebuilt.engine.power, rebuilt.wheels, rebuilt.colours) == (1, 5, ("red",))


def test_weights_are_neither_told_nor_fetched_again() -> None:
    """Yet what depends on whether there were any stays, and a file cannot ask for any."""
    description = to_config(Engine(1, weights="https://example.com/engine.pt"))
    assert description["init_args"] == {"power": 1, "weights": WEIGHTS_IN_CHECKPOINT}
    assert from_config(description).weights == WEIGHTS_IN_CHECKPOINT
    description["init_args"]["weights"] = "https://example.com/other.pt"
    assert from_config(description).weights == WEIGHTS_IN_CHECKPOINT
    assert to_config(Engine(1, weights=None))["init_args"] == {"power": 1, "weights": None}


def test_a_class_of_another_package_may_have_a_name_of_ours() -> None:
    class ResNet(Configurable):
        def __init__(self) -> None:
            pass

    assert type(from_config(to_config(ResNet()))) is ResNet
    assert type(from_config(to_config(backbones.ResNet("resnet18")))) is backbones.ResNet
    assert to_config(backbones.ResNet("resnet18"))["class"] == "ResNet"


def test_plain_values_stay_and_others_are_refused() -> None:
    assert to_config({"a": [1, 2.5, None, True, "x"], 3: Path("b/c")}) == {"a": [1, 2.5, None, True, "x"], "3": "b/c"}
    with pytest.raises(TypeError, match="cannot describe a set"):
        to_config(Car(Engine({1})))  # type: ignore[arg-type]


def test_names_nothing_but_known_classes() -> None:
    for name in ("Bicycle", "os.system", "builtins.eval"):
        with pytest.raises(KeyError, match="not a class of detseg"):
            from_config({"class": name, "init_args": {}})


def test_a_wrong_argument_keeps_its_error() -> None:
    with pytest.raises(TypeError, match="cylinders"):
        Car(Engine(1), cylinders=4)  # type: ignore[call-arg]
