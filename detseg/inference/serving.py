"""An HTTP server for predictions, by LitServe: POST the bytes of an image, get the result as JSON."""
# No `from __future__ import annotations`: FastAPI takes the annotation of ``request`` for the type of the body.

from typing import Annotated, Any

import litserve
from fastapi import Body
from fastapi.responses import JSONResponse
from PIL import Image

from detseg.data.annotations.images import FILE_TYPES, check_depth, open_image
from detseg.errors import DataError
from detseg.inference.archives import ImageContent
from detseg.inference.images import open_image as read_pixels
from detseg.inference.loading import load

RETRY_AFTER = 1  # seconds
FORMATS = {name for names in FILE_TYPES.values() for name in names}


class PredictionAPI(litserve.LitAPI):  # type: ignore[misc]
    """Predict on posted images; one that cannot be used gets an error, and the others of its batch do not."""

    def __init__(self, source: str, threshold: float | None, batch_size: int, max_pixels: int) -> None:
        super().__init__(max_batch_size=batch_size, batch_timeout=0.01)  # seconds to wait for others
        self.source, self.threshold, self.max_pixels = source, threshold, max_pixels

    def setup(self, device: str) -> None:
        self.predictor = load(self.source, device)

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/*")]) -> Image.Image | JSONResponse:
        """Decode an image of the formats of image files; never take the bytes for a path or an address."""
        name = ImageContent(request, "the image")
        try:
            with open_image(name, request) as image:
                if image.format not in FORMATS:  # Pillow runs other programs for some
                    raise DataError(f"{name}: {image.format} is not read; send one of {', '.join(sorted(FORMATS))}")
                if image.width * image.height > self.max_pixels:
                    raise DataError(f"{name}: has more than {self.max_pixels:,} pixels; make it smaller")
                check_depth(name, image)
                return Image.fromarray(read_pixels(image).pixels)
        except Exception as error:  # of which Pillow raises many types for a hostile file
            message = str(error) if isinstance(error, DataError) else f"{name}: cannot be decoded; send another one"
            return JSONResponse({"error": message}, 400)

    def predict(self, batch: list[Any]) -> list[Any]:
        images = [item for item in batch if isinstance(item, Image.Image)]
        results = iter(self.predictor(images, max(1, len(images)), self.threshold))
        return [next(results) if isinstance(item, Image.Image) else item for item in batch]

    def encode_response(self, output: Any) -> JSONResponse:
        return output if isinstance(output, JSONResponse) else JSONResponse({**output.to_json(), "file": None})


async def refuse_body(*_: Any) -> JSONResponse:
    """Answer a request whose body FastAPI does not take for bytes, such as an empty one or JSON."""
    return JSONResponse({"error": "the image: send the content of an image file as the body, as image/jpeg"}, 400)


class WaitingLimit:
    """An ASGI middleware: while ``limit`` posted requests wait, others get status 503 before their body is read."""

    def __init__(self, app: Any, limit: int) -> None:
        self.app, self.limit, self.waiting = app, limit, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":  # such as a health check
            await self.app(scope, receive, send)
        elif self.waiting >= self.limit:
            error = {"error": f"{self.waiting} requests are waiting; send this one again later"}
            await JSONResponse(error, 503, {"Retry-After": str(RETRY_AFTER)})(scope, receive, send)
        else:
            self.waiting += 1
            try:
                await self.app(scope, receive, send)
            finally:
                self.waiting -= 1
