"""The server's functions: every request has its own answer, and no bytes are a path."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("litserve")

from fastapi.responses import JSONResponse

from detseg.inference import Predictor
from detseg.inference.serving import PredictionAPI, WaitingLimit, refuse_body
from detseg.preprocessing import ResizeConfig
from tests.colours import COLOURS, ColourDetector


@pytest.fixture
def api() -> PredictionAPI:
    model = ColourDetector().eval()
    model.class_names, model.preprocessing = tuple(COLOURS), ResizeConfig(64, 96)
    api = PredictionAPI("no file", 0.1, batch_size=4, max_pixels=64 * 96)
    api.predictor = Predictor(model)
    return api


def encode(height: int = 64, width: int = 96, name: str = "PNG", **options: bytes) -> bytes:
    image = np.zeros((height, width, 3), np.uint8)
    image[8:24, 10:40] = COLOURS["red"]
    file = io.BytesIO()
    Image.fromarray(image).save(file, name, **options)
    return file.getvalue()


def body(response: JSONResponse) -> dict[str, object]:
    parsed = json.loads(bytes(response.body))
    assert isinstance(parsed, dict)
    return parsed


def test_a_broken_image_does_not_spoil_its_batch(api: PredictionAPI) -> None:
    requests = [encode(), b"no image", encode(name="BMP"), encode()[:100], encode(exif=b"no EXIF")]
    answers = [api.encode_response(output) for output in api.predict([api.decode_request(one) for one in requests])]
    assert [answer.status_code for answer in answers] == [200, 400, 200, 400, 200]
    assert body(answers[0])["boxes"] == body(answers[2])["boxes"] == [[10, 8, 40, 24]]
    assert body(answers[0])["size"] == [64, 96]
    assert "the image: " in str(body(answers[1])["error"])


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "the image"),
        (str(Path(__file__)).encode(), "the image"),
        (b"file:///etc/hostname", "the image"),
        (b"<html>sign in</html>", "the image: an HTML page instead of the file"),
        (b"http://127.0.0.1/a.png", "the image"),
        (encode(name="EPS"), "EPS is not read; send one of"),
        (encode(65, 96), "more than 6,144 pixels"),
        (encode(name="TIFF")[:-2000], "the image"),
    ],
)
def test_what_is_no_image_is_refused(api: PredictionAPI, content: bytes, error: str) -> None:
    answer = api.encode_response(api.predict([api.decode_request(content)])[0])
    assert answer.status_code == 400
    assert error in str(body(answer)["error"])


def test_a_body_that_is_no_bytes_is_refused_alike() -> None:
    answer = asyncio.run(refuse_body(None, None))
    assert answer.status_code == 400
    assert "the image: send the content of an image file" in str(body(answer)["error"])


def test_requests_beyond_the_limit_are_refused_until_others_are_answered() -> None:
    async def requests() -> list[Any]:
        served = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["method"] == "POST":
                await served.wait()
            await JSONResponse({})(scope, receive, send)

        limited = WaitingLimit(app, limit=2)

        async def request(method: str = "POST") -> Any:
            sent: list[Any] = []

            async def send(message: Any) -> None:
                sent.append(message)

            await limited({"type": "http", "method": method}, None, send)
            return sent[0]

        waiting = [asyncio.create_task(request()) for _ in range(2)]
        await asyncio.sleep(0)
        refused, health = await request(), await request("GET")
        served.set()
        return [refused, health, *await asyncio.gather(*waiting), await request()]

    refused, *answered = asyncio.run(requests())
    assert refused["status"] == 503
    assert (b"retry-after", b"1") in refused["headers"]
    assert [answer["status"] for answer in answered] == [200, 200, 200, 200]
