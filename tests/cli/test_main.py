"""`detseg` itself, and the help of its commands."""

from __future__ import annotations

import runpy

import pytest

from detseg import cli


def test_help_and_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("train", "evaluate", "predict", "propose", "convert", "truncate", "models"):
        monkeypatch.setattr("sys.argv", ["detseg", command, "--help"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        printed = capsys.readouterr().out
        assert f"usage: detseg {command}" in printed
        assert ("--data NAME.yaml|CLASS|FOLDER" in printed) == (command in ("train", "evaluate", "propose"))
    for argument, said in (("--help", "evaluate"), ("--version", "0.")):
        monkeypatch.setattr("sys.argv", ["detseg", argument])
        for call in (cli.main, lambda: runpy.run_module("detseg", run_name="__main__")):  # as `python -m detseg`
            call()
            assert said in capsys.readouterr().out
