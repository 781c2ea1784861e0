"""Speed of reading: images from files to samples, and annotation files."""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO as PycocotoolsCOCO

from detseg.data.annotations.cache import cached
from detseg.data.annotations.detection import DetectionAnnotations, ImageColumns, ObjectColumns, from_columns
from detseg.data.annotations.images import read_image
from detseg.data.formats.coco.reader import read_coco
from detseg.data.loading.collate import collate, default_pad_shapes
from detseg.data.modules.detection import DetectionDataModule, DetectionDataset
from detseg.data.transforms.geometry import ImageSample, hflip, scale

HEIGHT, WIDTH, IMAGES, OBJECTS = 480, 640, 32, 8
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Call = Callable[[], object]


def images(device: str, half: bool) -> dict[str, Call]:
    """Samples for training of 32 JPEG files of 640 x 480: short edge 800, half of them mirrored, with 8 boxes each.

    Ours are uint8, normalised on the device; the others' are normalised, as is common. The stages of ours come first.
    """
    folder = temporary()
    random = np.random.default_rng(0)
    files = [photograph(folder / f"{number}.jpg", random) for number in range(IMAGES)]
    corners = random.uniform(0, 300, (IMAGES * OBJECTS, 2))
    images = ImageColumns(
        root=folder,
        files=[file.name for file in files],
        ids=np.arange(IMAGES),
        sizes=np.tile(np.array([[HEIGHT, WIDTH]], dtype=np.int32), (IMAGES, 1)),
    )
    objects = ObjectColumns(
        image_index=np.arange(IMAGES).repeat(OBJECTS),
        boxes=np.concatenate([corners, corners + random.uniform(10, 170, corners.shape)], axis=1),
        labels=np.zeros(IMAGES * OBJECTS, dtype=np.int64),
        ids=np.arange(IMAGES * OBJECTS),
    )
    annotations = from_columns(folder, {"object": 1}, images, objects)
    dataset = DetectionDataset(annotations, DetectionDataModule.default_transforms(), training=True)
    stages(files, dataset)
    return {
        "detseg": lambda: [dataset[row, row] for row in range(IMAGES)],
        "torchvision v2": partial(torchvision_way, annotations),
        "albumentations + cv2": partial(albumentations_way, annotations),
    }


def stages(files: list[Path], dataset: DetectionDataset) -> None:
    """Print how many images a second each stage takes of one core, and its share of the time of all."""
    contents = [np.fromfile(file, dtype=np.uint8) for file in files]
    pictures = [ImageSample(read_image(file)) for file in files]
    large = [scale(picture, 800, 1067) for picture in pictures]
    samples = [dataset[row, row] for row in range(0, IMAGES, 2)]
    pad = partial(collate, pad_shapes=default_pad_shapes(800, 1333))
    found = {
        "read": best(lambda: [np.fromfile(file, dtype=np.uint8) for file in files]),
        "decode": best(lambda: [cv2.imdecode(content, cv2.IMREAD_COLOR_RGB) for content in contents]),
        "resize": best(lambda: [scale(picture, 800, 1067) for picture in pictures]),
        "flip, every other": best(lambda: [hflip(picture) for picture in large[::2]]),
        "pack": best(lambda: [pad(samples[row : row + 2]) for row in range(0, IMAGES // 2, 2)]) * 2,
    }
    for name, seconds in found.items():
        print(f"{name:18}{IMAGES / seconds:9.0f} images/s{100 * seconds / sum(found.values()):6.0f} %")


def best(call: Call) -> float:
    """Seconds of the processor, the least of five."""
    times = []
    for _ in range(5):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def photograph(file: Path, random: np.random.Generator) -> Path:
    """A JPEG with large shapes and fine grain, about as long as a photograph's."""
    coarse = random.integers(0, 255, (24, 32, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.int64)
    image += random.integers(-14, 15, image.shape)
    cv2.imwrite(str(file), image.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return file


def torchvision_way(annotations: DetectionAnnotations) -> list[object]:
    """torchvision's decoder and v2 transforms on tensors."""
    from torchvision import io, tv_tensors
    from torchvision.transforms import v2

    change = v2.Compose(
        [
            v2.RandomHorizontalFlip(0.5),
            v2.Resize(800, max_size=1333, antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    found = []
    for row in range(len(annotations)):
        image = tv_tensors.Image(io.decode_image(str(annotations.path(row))))
        boxes = annotations.boxes[annotations.objects(row)]
        target = tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=(HEIGHT, WIDTH))  # type: ignore[call-overload]
        found.append(change(image, {"boxes": target, "labels": annotations.labels[annotations.objects(row)]}))
    return found


def albumentations_way(annotations: DetectionAnnotations) -> list[object]:
    """OpenCV's decoder and albumentations, as most examples have it."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations
    from albumentations.pytorch import ToTensorV2

    boxes = albumentations.BboxParams(format="pascal_voc", label_fields=["labels"])
    steps = [albumentations.SmallestMaxSize(800), albumentations.HorizontalFlip(p=0.5), albumentations.Normalize()]
    change = albumentations.Compose([*steps, ToTensorV2()], bbox_params=boxes)
    found = []
    for row in range(len(annotations)):
        image = cv2.cvtColor(cv2.imread(str(annotations.path(row))), cv2.COLOR_BGR2RGB)  # type: ignore[arg-type]
        objects = annotations.objects(row)
        found.append(change(image=image, bboxes=annotations.boxes[objects], labels=annotations.labels[objects]))
    return found


def annotation_files(device: str, half: bool) -> dict[str, Call]:
    """An annotation file a tenth as large as instances_train2017: 11,800 images, 86,000 objects with polygons."""
    folder = temporary()
    file = folder / "instances.json"
    write(file, 11_800, 86_000)
    os.environ["XDG_CACHE_HOME"] = str(folder)
    read = partial(read_coco, file, folder, "all")
    keep = partial(cached, file, ["all"], read)
    keep()

    def pycocotools() -> object:
        with contextlib.redirect_stdout(io.StringIO()):
            return PycocotoolsCOCO(str(file))

    return {"detseg": read, "from its cache": keep, "pycocotools": pycocotools}


def write(file: Path, images: int, objects: int) -> None:
    """Objects of 26 corners on average, 1 % of them crowds as RLE."""
    random = np.random.default_rng(0)
    entries = []
    for number in range(objects):
        if number % 100 == 99:
            counts = np.diff(
                np.sort(random.choice(HEIGHT * WIDTH, 41, replace=False)), prepend=0, append=HEIGHT * WIDTH
            )
            outline: object = {"counts": counts.tolist(), "size": [HEIGHT, WIDTH]}
            box = np.array([0.0, 0, WIDTH, HEIGHT])
        else:
            corners = polygon(random)
            outline = [corners.ravel().tolist()]
            box = np.concatenate([corners.min(axis=0), np.ptp(corners, axis=0)]).round(2)
        entries.append(
            {
                "segmentation": outline,
                "area": float(box[2:].prod()),
                "iscrowd": int(isinstance(outline, dict)),
                "image_id": int(random.integers(images)),
                "bbox": box.tolist(),
                "category_id": int(random.integers(1, 81)),
                "id": number,
            }
        )
    pictures = [{"id": i, "file_name": f"{i:012}.jpg", "height": HEIGHT, "width": WIDTH} for i in range(images)]
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, 81)]
    file.write_text(
        json.dumps({"images": pictures, "annotations": entries, "categories": categories}), encoding="utf-8"
    )


def polygon(random: np.random.Generator) -> NDArray[np.float64]:
    """Corners (n, 2) around a point, of a size as in COCO."""
    angles = np.linspace(0, 2 * np.pi, int(random.integers(12, 41)), endpoint=False)
    half = np.exp(random.normal(3.5, 1, 2)).clip(3, 200)
    middle = random.uniform(half, np.maximum((WIDTH, HEIGHT) - half, half + 1))
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * random.uniform(0.7, 1, (len(angles), 1))
    corners: NDArray[np.float64] = (middle + half * ring).round(2)
    return corners


def temporary() -> Path:
    """A folder that goes when the program ends."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
