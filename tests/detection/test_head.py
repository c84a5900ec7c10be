"""Detection heads: what they cost by the paper and by TensorFlow, what they predict, and what they refuse."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import mnv2vision as mv
from mnv2vision.contracts import RawDetections
from mnv2vision.data.sample import BoxKind
from mnv2vision.data.targets import BoxTargets
from mnv2vision.detection import anchors as anchors_module
from mnv2vision.detection.loss import detection_loss
from mnv2vision.detection.postprocess import detect
from mnv2vision.errors import ConfigError

pytestmark = pytest.mark.slow

Randomize = Callable[[nn.Module], None]
BACKBONES = [
    ("mobilenet_v1", 1.0),
    ("mobilenet_v2", 0.35),
    ("mobilenet_v2", 1.0),
    ("mobilenet_v3_large", 1.0),
    ("mobilenet_v3_small", 1.0),
]


def on_meta(**options: Any) -> Any:
    with torch.device("meta"):
        return mv.create_model("detection", **options).eval()


def raw_of(model: Any, height: int, width: int) -> Any:
    """The raw output for an image of zeros, on the model's device."""
    device = next(model.parameters()).device
    with torch.no_grad():
        return model(torch.zeros(1, 3, height, width, device=device))


def megas(model: Any, size: int) -> tuple[float, float]:
    """Million parameters to three decimals, million multiply-adds to one."""
    ours = mv.complexity(model, (size, size))
    return round(ours.params / 1e6, 3), round(ours.madds / 1e6, 1)


# ---- costs: paper_facts 2.2 ----


@pytest.mark.parametrize(
    ("options", "size", "params", "madds"),
    [
        # Table 6 of the paper: MobileNetV2 4.3 M and 0.8 B, MobileNetV1 5.1 M and 1.3 B; 80 classes, 320x320.
        ({}, 320, 4.337, 788.8),
        ({"backbone": "mobilenet_v1"}, 320, 5.101, 1309.2),
        ({"reduce_lowest": False}, 320, 4.484, 847.6),
        # TensorFlow's configuration: 300x300 and COCO's 90.
        ({"num_classes": 90}, 300, 4.501, 749.5),
    ],
)
def test_costs(options: dict[str, Any], size: int, params: float, madds: float) -> None:
    assert megas(on_meta(**options), size) == (params, madds)


def test_parameters_without_norms() -> None:
    for name, millions in (("mobilenet_v2", 4.286), ("mobilenet_v1", 5.063)):
        model = on_meta(backbone=name)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        counts = [sum(p.numel() for part in parts for p in part.parameters()) for parts in ([model], norms)]
        assert round((counts[0] - counts[1]) / 1e6, 3) == millions


def head_costs(model: Any) -> dict[str, tuple[float, float]]:
    """Million parameters and multiply-adds of the extra maps and of the predictors."""
    with torch.no_grad(), FlopCounterMode(display=False, depth=None) as counter:
        model(torch.empty(1, 3, 320, 320, device="meta"))
    counts = {name: sum(by_operator.values()) for name, by_operator in counter.get_flop_counts().items()}
    return {
        part: (
            round(sum(p.numel() for name in parts for p in getattr(model.head, name).parameters()) / 1e6, 3),
            round(
                sum(
                    counts[f"{type(model).__name__}.heads.detection.{name}.{index}"]
                    for name in parts
                    for index in range(len(getattr(model.head, name)))
                )
                / 2e6,
                1,
            ),
        )
        for part, parts in (("extras", ("extras",)), ("predictors", ("boxes", "classes")))
    }


@pytest.mark.parametrize(
    ("options", "extras", "predictors", "total_params", "total_madds"),
    [
        # Table 5: SSD 14.8 M and 1.25 B, SSDLite 2.1 M and 0.35 B, which is twice what there is to count.
        ({"head": "ssd"}, (2.289, 68.2), (12.488, 1190.9), 14.777, 1259.1),
        ({}, (0.657, 38.6), (1.456, 139.1), 2.113, 177.7),
    ],
)
def test_heads_of_table_5(
    options: dict[str, Any],
    extras: tuple[float, float],
    predictors: tuple[float, float],
    total_params: float,
    total_madds: float,
) -> None:
    model = on_meta(**options)
    assert head_costs(model) == {"extras": extras, "predictors": predictors}
    whole, backbone = mv.complexity(model, (320, 320)), mv.complexity(model.backbone, (320, 320))
    assert round((whole.params - backbone.params) / 1e6, 3) == total_params
    # 177.7 is the sum of the rounded 38.6 and 139.1.
    assert (whole.madds - backbone.madds) / 1e6 == pytest.approx(total_madds, abs=0.1)
    assert round(backbone.madds / 1e6, 1) == 611.2


def test_head_of_mobilenet_v1() -> None:
    model = on_meta(backbone="mobilenet_v1")
    assert [costs[1] for costs in head_costs(model).values()] == [32.0, 118.6]
    assert round(mv.complexity(model.backbone, (320, 320)).madds / 1e6, 1) == 1158.6


# ---- structure ----


@pytest.mark.parametrize(
    ("backbone", "taps"),
    [
        ("mobilenet_v1", [(512, 16), (1024, 32)]),  # Conv2d_11_pointwise, Conv2d_13_pointwise
        ("mobilenet_v2", [(576, 16), (1280, 32)]),  # layer_15/expansion_output, layer_19
        ("mobilenet_v3_large", [(672, 16), (960, 32)]),  # layer_14/expansion_output, layer_17
        ("mobilenet_v3_small", [(288, 16), (576, 32)]),  # layer_10/expansion_output, layer_13
    ],
)
def test_taps(backbone: str, taps: list[tuple[int, int]]) -> None:
    model = on_meta(backbone=backbone)
    assert [tuple(model.backbone.feature_specs[tap]) for tap in model.backbone.taps] == taps


@pytest.mark.parametrize(
    ("width", "channels"),
    [
        (1.0, [(256, 512), (128, 256), (128, 256), (64, 128)]),
        # depth_fn = max(int(depth * depth_multiplier), min_depth) of TensorFlow's feature extractors, min_depth 16.
        (0.35, [(89, 179), (44, 89), (44, 89), (22, 44)]),
        (0.1, [(25, 51), (16, 25), (16, 25), (16, 16)]),
    ],
)
def test_channels_of_the_extra_maps(width: float, channels: list[tuple[int, int]]) -> None:
    model = on_meta(width=width)
    assert [(extra.squeeze.out_channels, extra.project.out_channels) for extra in model.head.extras] == channels


def test_initial_weights_of_the_head() -> None:
    """Truncated normal of deviation 0.03, cut at two deviations, which leaves 0.88 of it; class biases of the prior."""
    torch.manual_seed(0)
    model: Any = mv.create_model("detection", num_classes=3)
    weights = torch.cat([layer.weight.flatten() for layer in model.head.modules() if isinstance(layer, nn.Conv2d)])
    assert weights.abs().max() <= 0.06
    assert weights.std().item() == pytest.approx(0.03 * 0.8796, rel=0.01)
    assert not any(predictor.conv.bias.any() for predictor in model.head.boxes)
    # Three anchors without an object for each with one, which is of each of the three classes as likely.
    for predictor in model.head.classes:
        scores = predictor.conv.bias.view(-1, 4).sigmoid()
        assert torch.allclose(scores, torch.tensor([3 / 4, 1 / 12, 1 / 12, 1 / 12]))


@pytest.mark.parametrize(("backbone", "width"), BACKBONES)
def test_as_many_predictions_as_anchors(backbone: str, width: float, randomize: Randomize) -> None:
    model: Any = mv.create_model("detection", backbone=backbone, width=width, num_classes=3).eval()
    randomize(model)
    for size in ((96, 96), (300, 300), (64, 96), (161, 97), (33, 160)):
        images = torch.randn(2 if size == (64, 96) else 1, 3, *size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            raw = model(images)
        assert raw.anchors.shape[1:] == (4,)
        anchors = len(raw.anchors)
        assert raw.box_codes.shape == (len(images), anchors, 4)
        assert raw.class_logits.shape == (len(images), anchors, 4)
        assert raw.anchors.device == raw.box_codes.device
        assert raw.box_codes.isfinite().all()
        assert raw.class_logits.std() > 0.1
        assert (detect(raw).counts > 0).all()


def test_as_many_predictions_as_anchors_with_options() -> None:
    options = {"width": 0.35, "padding": "tf", "reduce_lowest": False, "num_classes": 3, "head": "ssd"}
    model: Any = mv.create_model("detection", **options).eval()
    for size in ((300, 300), (161, 97)):
        raw = raw_of(model, *size)
        assert raw.box_codes.shape[1] == raw.class_logits.shape[1] == len(raw.anchors)


def test_predictions_are_laid_out_as_anchors_are(randomize: Randomize) -> None:
    """Channels of a predictor are (anchor, column); anchors are ordered by map, row, column and shape."""
    model: Any = mv.create_model("detection", width=0.35, num_classes=2, image_size=(64, 96)).eval()
    randomize(model)
    cells = [4 * 6, 2 * 3, 1 * 2, 1, 1, 1]
    with torch.no_grad():
        for index, predictor in enumerate(model.head.classes):
            predictor.conv.weight.zero_()
            predictor.conv.bias.copy_(100 * index + torch.arange(len(predictor.conv.bias)))
        x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
        raw = model(x)
    logits = raw.class_logits[0]
    start = 0
    for index, count in enumerate(cells):
        shapes = 3 if index == 0 else 6
        own = logits[start : start + count * shapes].view(count, shapes, 3)
        wanted = 100 * index + torch.arange(3.0 * shapes).view(shapes, 3)
        torch.testing.assert_close(own, wanted.expand_as(own))
        start += count * shapes
    assert start == len(logits) == len(raw.anchors)


def test_predictions_lie_where_their_anchors_lie() -> None:
    """A mark on the feature maps moves the logits of the anchors around it."""
    torch.manual_seed(0)
    model: Any = mv.create_model("detection", width=0.35, num_classes=1, image_size=(160, 320)).eval()
    first, last = (model.backbone.feature_specs[tap].channels for tap in model.backbone.taps)
    maps = torch.zeros(2, first, 10, 20), torch.zeros(2, last, 5, 10)
    maps[0][1, :, 7, 3] = 50.0
    with torch.no_grad():
        raw = model.head(maps, (160, 320))
    logits = raw.class_logits
    moved = (logits[1, :600] - logits[0, :600]).abs().amax(dim=1).view(10, 20, 3).amax(dim=2) > 1e-4
    wanted = torch.zeros(10, 20, dtype=torch.bool)
    wanted[6:9, 2:5] = True  # a 3x3 convolution sees its neighbours
    assert torch.equal(moved, wanted)
    centres = raw.anchors[:600, :2].view(10, 20, 3, 2)[7, 3, 0].tolist()
    assert centres == pytest.approx([3.5 / 20, 7.5 / 10])


def test_a_predictor_of_ssdlite_is_separable() -> None:
    for lite, full in zip(on_meta().head.classes, on_meta(head="ssd").head.classes, strict=True):
        channels = lite.conv.in_channels
        assert lite.conv.kernel_size == (1, 1)
        assert lite.depthwise.conv.weight.shape == (channels, 1, 3, 3)
        assert isinstance(lite.depthwise.act, nn.ReLU6)
        assert full.conv.weight.shape == (lite.conv.out_channels, channels, 3, 3)
        assert full.depthwise is None


# ---- anchors of the raw output ----


@pytest.fixture
def fresh_anchors() -> Iterator[None]:
    """Without what other tests left in the cache, and nothing left for them."""
    anchors_module._on_device.cache_clear()
    yield
    anchors_module._on_device.cache_clear()


@pytest.mark.usefixtures("fresh_anchors")
def test_anchors_made_in_inference_serve_training() -> None:
    torch.manual_seed(0)
    model: Any = mv.create_model("detection", width=0.35, num_classes=2, image_size=(64, 96))
    with torch.inference_mode():
        detect(model.eval()(torch.randn(2, 3, 64, 96)))
    targets = BoxTargets(
        torch.tensor([[[0.1, 0.1, 0.6, 0.6]]] * 2),
        torch.tensor([[1], [0]]),
        torch.full((2, 1), BoxKind.OBJECT, dtype=torch.uint8),
        torch.ones(2, dtype=torch.bool),
    )
    raw = model.train()(torch.randn(2, 3, 64, 96))
    sum(detection_loss(raw, targets)).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.head.boxes.parameters())


@pytest.mark.usefixtures("fresh_anchors")
@pytest.mark.parametrize("strict", [False, True])
def test_anchors_first_made_in_an_export_are_no_part_of_it(strict: bool) -> None:
    """Exporting traces with stand-ins for tensors, which must not stay behind in the model."""
    model: Any = mv.create_model("detection", width=0.35, num_classes=2, image_size=(64, 96)).eval()

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor, codes: Tensor) -> Tensor:
            shifted: Tensor = codes + self.model(images).anchors
            return shifted

    inputs = torch.zeros(1, 3, 64, 96), torch.zeros(3 * 24 + 6 * (6 + 2 + 1 + 1 + 1), 4)
    program = torch.export.export(Shifted(), inputs, strict=strict)
    assert not any("mnv2vision" in str(node.target) for node in program.graph.nodes)  # it needs no such operators
    anchors = raw_of(model, 64, 96).anchors
    assert type(anchors) is Tensor
    assert torch.equal(program.module()(*inputs), anchors)
    assert anchors[0].tolist() == pytest.approx([0.5 / 6, 0.5 / 4, 0.1 * 64 / 96, 0.1])


@pytest.mark.usefixtures("fresh_anchors")
def test_stand_ins_for_anchors_are_not_kept() -> None:
    model: Any = mv.create_model("detection", width=0.35, num_classes=2, image_size=(64, 96)).eval()
    with FakeTensorMode(allow_non_fake_inputs=True):
        stand_in = raw_of(model, 64, 96).anchors
    assert isinstance(stand_in, FakeTensor)
    assert stand_in.shape == (138, 4)
    assert type(raw_of(model, 64, 96).anchors) is Tensor


@pytest.mark.usefixtures("fresh_anchors")
def test_anchors_are_made_once() -> None:
    """For each input and device, so that a step copies nothing to a GPU."""
    model: Any = mv.create_model("detection", width=0.35, num_classes=2, image_size=(64, 96)).eval()
    with torch.inference_mode():
        on_cpu = model(torch.zeros(2, 3, 64, 96)).anchors
    assert not on_cpu.is_inference()
    assert raw_of(model, 64, 96).anchors is on_cpu
    on_meta = raw_of(model.to("meta"), 64, 96).anchors
    assert raw_of(model, 64, 96).anchors is on_meta is not on_cpu
    assert on_meta.is_meta


def test_anchors_follow_the_size_of_the_input() -> None:
    square, wide = raw_of(on_meta(), 320, 320).anchors, raw_of(on_meta(), 160, 320).anchors
    assert (len(square), len(wide)) == (2034, 3 * 200 + 6 * (50 + 15 + 6 + 2 + 1))


def test_anchors_are_those_of_the_input_not_of_the_preprocessing() -> None:
    """96 pixels through a model of 128: maps of 6, 3, 2, 1, 1 and 1 cells a side."""
    model: Any = mv.create_model("detection", width=0.35, num_classes=2, image_size=128).eval()
    maps = [(6, 6), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1)]
    with torch.no_grad():
        small, own = (model(torch.zeros(2, 3, side, side)) for side in (96, 128))
    assert torch.equal(small.anchors, anchors_module.make_anchors(maps, (96, 96)))
    assert small.box_codes.shape == (2, 3 * 36 + 6 * (9 + 4 + 3), 4)
    assert torch.equal(own.anchors[: 3 * 64], anchors_module.make_anchors([(8, 8)], (128, 128))[: 3 * 64])
    assert len(own.anchors) == own.box_codes.shape[1] == 3 * 64 + 6 * (16 + 4 + 3)
    found = model.head.detect(small)
    assert (found.counts > 0).all()


@pytest.mark.usefixtures("fresh_anchors")
@pytest.mark.filterwarnings("error")
def test_compiles_without_graph_breaks(randomize: Randomize) -> None:
    """The anchors are an operator of the graph, and as well as new: compiled code may write into them."""
    model: Any = mv.create_model("detection", width=0.35, num_classes=2, image_size=(64, 96)).eval()
    randomize(model)
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(model.double(), fullgraph=True, backend=backend)
    for count, height, width in ((2, 64, 96), (2, 64, 96), (3, 64, 96), (4, 64, 96)):
        x = torch.randn(count, 3, height, width, dtype=torch.double, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            ours, wanted = compiled(x), model(x)
        assert torch.equal(ours.anchors, wanted.anchors)
        assert ours.anchors is not wanted.anchors
        torch.testing.assert_close(ours.box_codes, wanted.box_codes)
        torch.testing.assert_close(ours.class_logits, wanted.class_logits)
    assert len(graphs) == 2  # at first, and for batches of any size
    for graph in graphs:
        targets = [str(node.target) for node in graph.graph.nodes]
        assert targets.count("mnv2vision.anchors.default") == 1
        assert not any("numpy" in target or "broadcast_to" in target for target in targets)


def test_the_operator_of_compiled_code_is_sound() -> None:
    arguments = ([4, 6, 2, 3], [64, 96], True, torch.device("cpu"))
    torch.library.opcheck(anchors_module._in_compiled_code, arguments)
    wanted = anchors_module.make_anchors([(4, 6), (2, 3)], (64, 96))
    assert torch.equal(anchors_module._in_compiled_code(*arguments), wanted)


def test_export_to_a_file(tmp_path: Path, randomize: Randomize) -> None:
    """Raw detections are known to torch.export, so that a program that gives them can be saved."""
    model: Any = mv.create_model("detection", width=0.35, num_classes=2, image_size=(64, 96)).eval()
    randomize(model)
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "detector.pt2")
    with torch.no_grad():
        ours, wanted = torch.export.load(tmp_path / "detector.pt2").module()(x), model(x)
    assert isinstance(ours, RawDetections)
    assert torch.equal(ours.anchors, wanted.anchors)
    torch.testing.assert_close(ours.box_codes, wanted.box_codes, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours.class_logits, wanted.class_logits, rtol=1e-3, atol=1e-3)


# ---- files and options ----


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            **{"head": "ssd", "reduce_lowest": False, "scores": "softmax", "padding": "tf"},
            **{"nms_iou": 0.45, "max_detections": 7},
        },
    ],
)
def test_save_and_load(options: dict[str, Any], tmp_path: Path, randomize: Randomize) -> None:
    names = ("a", "b", "c")
    model: Any = mv.create_model("detection", width=0.35, names=names, image_size=(64, 96), **options).eval()
    randomize(model)
    mv.save(model, tmp_path / "x.safetensors")
    loaded: Any = mv.load(tmp_path / "x.safetensors")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    # In double precision, as random weights amplify the rounding, which other kernels do otherwise.
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        ours, wanted = loaded.double()(images), model.double()(images)
    assert wanted.class_logits.std() > 0.1
    torch.testing.assert_close(ours.box_codes, wanted.box_codes, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.class_logits, wanted.class_logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(ours.anchors, wanted.anchors)
    assert ours.anchors.device.type == "cpu"
    assert len(ours.anchors) == wanted.box_codes.shape[1]
    assert (loaded.task, loaded.names, loaded.num_classes) == ("detection", names, 3)
    assert loaded.preprocessing == model.preprocessing
    head = loaded.head
    assert (head.scores, head.nms_iou) == (options.get("scores", "sigmoid"), options.get("nms_iou", 0.6))
    assert head.max_detections == options.get("max_detections", 100)  # which files of before do not mention
    assert loaded.config.head.options.get("max_detections") == options.get("max_detections")


def test_defaults() -> None:
    model = on_meta()
    assert (model.task, model.num_classes, model.head.scores, model.head.nms_iou) == ("detection", 80, "sigmoid", 0.6)
    assert model.preprocessing.image_size == (320, 320)
    assert model.preprocessing.resize == "stretch"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "yolo"}, r"head='yolo' is unknown; valid: ssdlite, ssd"),
        ({"scores": "relu"}, r"scores='relu' is unknown; valid: sigmoid, softmax"),
        ({"nms_iou": 0}, r"nms_iou=0 "),
        ({"nms_iou": 1.5}, r"nms_iou=1\.5 "),
        ({"nms_iou": "0.5"}, r"nms_iou='0\.5' "),
        ({"max_detections": 0}, r"max_detections=0 must be an integer of at least 1"),
        ({"max_detections": 2.5}, r"max_detections=2\.5 "),
        ({"max_detections": True}, r"max_detections=True "),
        ({"num_classes": 0}, r"num_classes=0"),
        ({"num_classes": 3, "names": ("a", "b")}, r"num_classes=3, but there are 2 class names"),
        ({"dropout": 0.5}, r"option of a detection model with mobilenet_v2: dropout"),
        ({"nms_iuo": 0.5}, r"nms_iuo; did you mean nms_iou\?"),
    ],
)
def test_mistakes_are_named_with_what_is_valid(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        on_meta(**options)
    assert "\n" not in str(caught.value)
