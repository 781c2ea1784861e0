"""Transforms of training images, as a list that users extend, and the resizing for evaluation."""

from detseg.data.transforms.albumentations import Albumentations as Albumentations
from detseg.data.transforms.geometry import ImageSample as ImageSample
from detseg.data.transforms.mixing import CopyPaste as CopyPaste
from detseg.data.transforms.mixing import LargeScaleJitter as LargeScaleJitter
from detseg.data.transforms.mixing import Mosaic as Mosaic
from detseg.data.transforms.transform import MixTransform as MixTransform
from detseg.data.transforms.transform import RandomHorizontalFlip as RandomHorizontalFlip
from detseg.data.transforms.transform import RandomResizedCrop as RandomResizedCrop
from detseg.data.transforms.transform import RandomScaleCrop as RandomScaleCrop
from detseg.data.transforms.transform import Resize as Resize
from detseg.data.transforms.transform import Tiles as Tiles
from detseg.data.transforms.transform import Transform as Transform
