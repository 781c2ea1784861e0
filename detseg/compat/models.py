"""Models: in 0.1.0 ``FasterRCNN`` and its siblings took every number themselves; now their parts do."""

from __future__ import annotations

from typing import Any

from detseg.compat.common import Build, Hook, rename

KEYS = {
    "model.backbone.body": "model.backbone.backbone",
    "model.head": "model.roi_heads.box_head",
    "model.anchor_sizes": "model.rpn.anchor_generator.sizes",
    "model.anchor_ratios": "model.rpn.anchor_generator.aspect_ratios",
    "model.rpn_depth": "model.rpn.head.num_convs",
    "model.rpn_candidates": "model.rpn.pre_nms_top_n",
    "model.proposals": "model.rpn.post_nms_top_n",
    "model.rpn_nms": "model.rpn.nms_threshold",
    "model.rpn_score_threshold": "model.rpn.score_threshold",
    "model.mask_channels": "model.roi_heads.mask_head.channels",
    "model.mask_norm": "model.roi_heads.mask_head.norm",
}
LOSSES = {  # in the metrics of a checkpoint
    "rpn_objectness": "loss_objectness",
    "rpn_box": "loss_rpn_box_reg",
    "box_class": "loss_classifier",
    "box_delta": "loss_box_reg",
    "class": "loss_classifier",  # of R-CNN and classifiers
    **{name: f"loss_{name}" for name in ("mask", "pixels", "auxiliary", "aux1", "aux2")},
}
CLASSES = {"TwoFCHead": "TwoMLPHead", "Conv5Head": "Res5Head"}
ARGUMENTS = {
    "FPN": {"body": "backbone"},
    "MobileNetV3": {"entry": "return_stage_start"},
    "TwoMLPHead": {"size": "pool_size"},
    "ConvFCHead": {"size": "pool_size", "depth": "num_convs"},
    "RCNN": {"size": "crop_size", "batch": "crops_per_batch"},
}
STATE_PREFIXES = {
    "model.backbone.body.": "model.backbone.backbone.",
    "model.backbone.inner.": "model.backbone.lateral_convs.",
    "model.backbone.outer.": "model.backbone.output_convs.",
    "model.rpn.conv.": "model.rpn.head.conv.0.",
    "model.rpn.deeper.0.": "model.rpn.head.conv.1.",
    "model.rpn.deeper.1.": "model.rpn.head.conv.2.",
    "model.rpn.objectness.": "model.rpn.head.cls_logits.",
    "model.rpn.deltas.": "model.rpn.head.bbox_pred.",
    "model.box_head.body.": "model.roi_heads.box_head.",
    "model.box_head.classes.": "model.roi_heads.box_predictor.cls_score.",
    "model.box_head.deltas.": "model.roi_heads.box_predictor.bbox_pred.",
    "model.mask_head.convs.": "model.roi_heads.mask_head.convs.",
    "model.mask_head.deconv.": "model.roi_heads.mask_head.conv5_mask.",
    "model.mask_head.logits.": "model.roi_heads.mask_head.mask_fcn_logits.",
    "model.classes.": "model.cls_score.",  # of R-CNN, as the next
    "model.deltas.": "model.bbox_pred.",
}


def _region_parts(
    settings: dict[str, Any], build: Build, samples: int, nms: float, min_bg_iou: float
) -> dict[str, Any]:
    """Build the parts of RoI heads that 0.1.0's ``settings`` change, with these defaults of their class."""
    parts = {}
    if thresholds := rename(settings, {"iou": "fg_iou_threshold", "background_iou": "min_bg_iou"}):
        fg_iou_threshold = thresholds.get("fg_iou_threshold", 0.5)
        parts["matcher"] = build(
            "Matcher",
            {
                "fg_iou_threshold": fg_iou_threshold,
                "bg_iou_threshold": fg_iou_threshold,
                "allow_low_quality_matches": False,
                "min_bg_iou": thresholds.get("min_bg_iou", min_bg_iou),
            },
        )
    if sampling := rename(settings, {"samples": "batch_size_per_image", "positive_fraction": "positive_fraction"}):
        defaults = {"batch_size_per_image": samples, "positive_fraction": 0.25}
        parts["sampler"] = build("BalancedSampler", defaults | sampling)
    names = {"nms": "nms_threshold", "score_threshold": "score_threshold"}
    names |= {"candidates": "topk_candidates", "detections": "detections_per_image"}
    if selection := rename(settings, names):
        parts["postprocessor"] = build("Postprocessor", {"nms_threshold": nms, **selection})
    return parts


def _rpn(settings: dict[str, Any], build: Build) -> dict[str, Any]:
    """Build the arguments of an RPN that 0.1.0's ``settings`` change."""
    names = {"rpn_candidates": "pre_nms_top_n", "proposals": "post_nms_top_n"}
    names |= {"rpn_nms": "nms_threshold", "rpn_score_threshold": "score_threshold"}
    rpn = rename(settings, names)
    if anchors := rename(settings, {"anchor_sizes": "sizes", "anchor_ratios": "aspect_ratios"}):
        rpn["anchor_generator"] = build("AnchorGenerator", anchors)
    if head := rename(settings, {"rpn_depth": "num_convs"}):
        rpn["head"] = build("RPNHead", head)
    if "rpn_iou" in settings:
        low, high = settings.pop("rpn_iou")
        thresholds = {"fg_iou_threshold": high, "bg_iou_threshold": low, "allow_low_quality_matches": True}
        rpn["matcher"] = build("Matcher", thresholds)
    sampling = {"rpn_samples": "batch_size_per_image", "rpn_positive_fraction": "positive_fraction"}
    if sampler := rename(settings, sampling):
        defaults = {"batch_size_per_image": 256, "positive_fraction": 0.5}
        rpn["sampler"] = build("BalancedSampler", defaults | sampler)
    return rpn


def _two_stage(heads: str, samples: int, nms: float, min_bg_iou: float) -> Hook:
    """Return a hook that gives the arguments of a detector of 0.1.0 to its parts, the RoI ``heads`` among them."""

    def hook(init_args: dict[str, Any], build: Build) -> dict[str, Any]:
        settings = dict(init_args)
        rpn = _rpn(settings, build)
        roi_heads = rename(settings, {"head": "box_head"})
        if "pooling" in settings:
            pooler = {"roi_align": "RoIAlign", "roi_pool": "RoIPool"}[settings.pop("pooling")]
            roi_heads["pooler"] = build(pooler, {})
        roi_heads |= _region_parts(settings, build, samples, nms, min_bg_iou)
        if mask := rename(settings, {"mask_channels": "channels", "mask_norm": "norm"}):
            roi_heads["mask_head"] = build("MaskHead", mask)
        if rpn:
            settings["rpn"] = build("RPN", rpn)
        if roi_heads:
            settings["roi_heads"] = build(heads, roi_heads)
        return settings

    return hook


def _rcnn(init_args: dict[str, Any], build: Build) -> dict[str, Any]:
    settings = dict(init_args)
    parts = _region_parts(settings, build, samples=64, nms=0.3, min_bg_iou=0.0)
    return {**settings, **parts}


def _without_in_channels(init_args: dict[str, Any], build: Build) -> dict[str, Any]:
    return {name: value for name, value in init_args.items() if name != "in_channels"}  # follows from the backbone


OBJECT_HOOKS = {
    "FasterRCNN": _two_stage("RoIHeads", samples=512, nms=0.5, min_bg_iou=0.0),
    "MaskRCNN": _two_stage("MaskRCNNHeads", samples=512, nms=0.5, min_bg_iou=0.0),
    "FastRCNN": _two_stage("FastRCNNHeads", samples=64, nms=0.3, min_bg_iou=0.1),
    "RCNN": _rcnn,
    "TwoMLPHead": _without_in_channels,
    "ConvFCHead": _without_in_channels,
}
